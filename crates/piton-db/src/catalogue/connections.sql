-- Where the subscriptions connect to; it holds a password.
select format('connection of subscription %I', subname), encode(sha256(convert_to(subconninfo, 'UTF8')), 'hex')
from pg_subscription where subdbid = (select d.oid from pg_database d where d.datname = current_database())
