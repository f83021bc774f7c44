//! Hands a cloned database over to another role.
//!
//! `REASSIGN OWNED` would do it in one statement, and would give away every other database of the old role as well.

use crate::error::Doing;
use crate::identity::read_mark;
use crate::{Database, DbError, quote};

/// Lists `ALTER kind name OWNER TO` for each object whose owner is not the role; extensions' members stay.
const STATEMENTS: &str = "
    with member as (select classid, objid from pg_catalog.pg_depend where deptype = 'e'),
    ns as (select * from pg_catalog.pg_namespace where nspname <> 'information_schema' and nspname !~ '^pg_'),
    owned as (
      select 'pg_namespace'::regclass as class, oid, nspowner as owner, 'schema' as kind, quote_ident(nspname) as name from ns
      -- Its owner is whoever owns the database.
      where nspowner <> coalesce((select oid from pg_catalog.pg_roles where rolname = 'pg_database_owner'), 0)
      union all
      select 'pg_class'::regclass, c.oid, relowner,
             case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
               when 'f' then 'foreign table' when 'c' then 'type' else 'table' end,
             format('%I.%I', nspname, relname)
      from pg_catalog.pg_class c join ns on ns.oid = relnamespace
      -- A column's own sequence goes with its table.
      where relkind in ('r', 'p', 'v', 'm', 'f', 'c', 'S') and not exists (
        select from pg_catalog.pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
          and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and relkind = 'S')
      union all
      select 'pg_proc'::regclass, p.oid, proowner, 'routine',
             format('%I.%I(%s)', nspname, proname, pg_get_function_identity_arguments(p.oid))
      from pg_catalog.pg_proc p join ns on ns.oid = pronamespace
      union all
      select 'pg_type'::regclass, t.oid, typowner, 'type', format('%I.%I', nspname, typname)
      from pg_catalog.pg_type t join ns on ns.oid = typnamespace where typtype in ('e', 'd', 'r')
      union all
      select 'pg_statistic_ext'::regclass, s.oid, stxowner, 'statistics', format('%I.%I', nspname, stxname)
      from pg_catalog.pg_statistic_ext s join ns on ns.oid = stxnamespace
      union all
      select 'pg_largeobject'::regclass, oid, lomowner, 'large object', oid::text
      from pg_catalog.pg_largeobject_metadata
    )
    select format('ALTER %s %s OWNER TO %I', upper(kind), name, $1::text)
    from owned where not exists (select from member m where m.classid = owned.class and m.objid = owned.oid)
      and pg_catalog.pg_get_userbyid(owner) <> $1::text";

/// Gives a database that Piton made, and every object in it, to a role; returns how many objects changed hands.
///
/// The clone of one environment's database thus becomes another's, whose user is a different one. Privileges granted to other
/// roles stay. Publications, operators and foreign servers keep their owners: changing them takes a superuser.
///
/// # Errors
/// [`DbError::NotMade`] unless the database's mark says that Piton made it; [`DbError::Privilege`] when the user is no member of
/// both roles. All or nothing changes hands.
pub async fn give_to(database: &Database, role: &str) -> Result<usize, DbError> {
    let mut client = database.connect().await?;
    let name = &database.dbname;
    let mark = read_mark(&client, name).await?;
    if !mark.valid().is_some_and(|mark| mark.label.purpose.made_by_piton()) {
        return Err(DbError::NotMade { name: name.clone(), found: mark.in_words() });
    }
    crate::target::pin(&client).await?;
    let what = || format!("give {name} to {role}");
    let mend = || {
        format!(
            "ALTER ROLE the user SUPERUSER, or GRANT the old owner and {} TO the user",
            quote::ident(role)
        )
    };
    let transaction = client.transaction().await.doing(what)?;
    let rows = transaction.query(STATEMENTS, &[&role]).await.doing(what)?;
    for row in &rows {
        transaction.batch_execute(row.get(0)).await.needing(what, mend)?;
    }
    let whole = format!("ALTER DATABASE {} OWNER TO {}", quote::ident(name), quote::ident(role));
    transaction.batch_execute(&whole).await.needing(what, mend)?;
    transaction.commit().await.doing(what)?;
    Ok(rows.len())
}
