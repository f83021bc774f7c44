//! The tables of a database as a replay needs them: names, identities, types and keys.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::DbError;
use crate::capture::Lsn;
use crate::error::Doing;

/// The schema of the golden copy in which a replay keeps where it stands.
pub(crate) const SCHEMA: &str = "piton_replay";

/// The tables of one database at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layout {
    /// A place in the live database's log behind which this layout, or a later one, is valid.
    pub(super) lsn: Lsn,
    /// Ordinary and partitioned tables, by oid.
    pub(super) tables: Vec<Table>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    pub(super) sequences: Vec<Sequence>,
}

/// A table of any kind that rows are written to by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// Whether its rows lie in partitions.
    pub(super) partitioned: bool,
    /// The number of its file, which another one takes when all rows are written anew.
    pub(super) file: u32,
    /// Whether its rows are in no log.
    pub(super) unlogged: bool,
    /// The topmost table of which it is a partition.
    pub(super) root: Option<u32>,
    /// What the log tells of a row that is changed or removed.
    pub(super) identity: Identity,
    /// The columns of each unique key that is checked at once and holds no NULL; the primary key first.
    pub(super) keys: Vec<Vec<String>>,
    pub(super) columns: Vec<Column>,
    /// The transactions that gave it its name and columns, as far as the catalogue tells: 32 bits of each.
    pub(super) made_by: Vec<u32>,
}

/// What identifies a row in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Identity {
    /// Nothing: updates and deletes cannot be followed.
    Nothing,
    /// These columns.
    Columns(Vec<String>),
    /// The whole row as it was.
    Whole,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Column {
    pub(super) number: i16,
    pub(super) name: String,
    /// The type as the stream writes it, without a modifier.
    pub(super) type_name: String,
    /// The type without a modifier, as a cast needs it: `bpchar` where the stream writes `character`, which means a single one.
    pub(super) bare: String,
    /// The type with its modifier: `numeric(10,2)`.
    pub(super) full: String,
    /// What a type that people made is made of: an enum's labels, a composite's columns.
    pub(super) made_of: Option<String>,
    /// Whether the type, or what it is an array of, is PostgreSQL's own.
    pub(super) builtin: bool,
    pub(super) not_null: bool,
    /// Whether it has a default, identity included.
    pub(super) has_default: bool,
    /// What the rows hold that were there when it was added, as text, as long as none was written anew.
    pub(super) missing: Option<String>,
    /// Its default where that is a constant, as text.
    pub(super) constant: Option<String>,
    /// Whether it is computed: nobody writes it.
    pub(super) generated: Generated,
    /// Whether only `OVERRIDING SYSTEM VALUE` writes it.
    pub(super) always_identity: bool,
    /// The operator by which two values are the same for the column's unique index, or else for its type; `None` where it has none.
    ///
    /// Without a search path a bare `=` would be that of another type, as text's for citext, which no index serves.
    #[serde(default)]
    pub(super) equal: Option<String>,
}

/// Whether and where a column is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Generated {
    /// It is written.
    No,
    /// It is computed and stored.
    Stored,
    /// It is computed when it is read, and in no log.
    Virtual,
}

/// A foreign key that the server watches over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ForeignKey {
    pub(super) name: String,
    pub(super) table: u32,
    pub(super) columns: Vec<String>,
    pub(super) to: u32,
    pub(super) to_columns: Vec<String>,
    /// The operator between each column of the row that is referred to and that of the row that refers, in this order.
    #[serde(default)]
    pub(super) equal: Vec<String>,
    /// Whether all rows are known to keep to it.
    pub(super) valid: bool,
    /// Whether MATCH FULL counts.
    pub(super) full: bool,
    /// Whether an index finds the rows that refer.
    #[serde(default)]
    pub(super) indexed: bool,
}

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sequence {
    pub(super) oid: u32,
    pub(super) schema: String,
    pub(super) name: String,
    /// The columns that it numbers, with their tables.
    pub(super) numbers: Vec<(u32, String)>,
    pub(super) ascends: bool,
}

impl Column {
    /// Tells whether an update cannot set it.
    pub(super) fn is_given(&self) -> bool {
        self.always_identity || self.generated != Generated::No
    }

    /// Returns the condition that a value of the column is the same as another one.
    pub(super) fn same(&self, own: &str, other: &str) -> String {
        format!("{own} {} {other}", self.equal.as_deref().unwrap_or("="))
    }
}

impl ForeignKey {
    /// Returns the condition that the row with these values of the columns that are referred to is the one to which `g` refers.
    pub(super) fn refers(&self, value: impl Fn(&str) -> String) -> String {
        let pair = |(at, (to, from)): (usize, (&String, &String))| {
            let equal = self.equal.get(at).map_or("=", String::as_str);
            format!("{} {equal} g.{}", value(to), crate::quote::ident(from))
        };
        let pairs = self.to_columns.iter().zip(&self.columns);
        pairs.enumerate().map(pair).collect::<Vec<_>>().join(" and ")
    }
}

impl Table {
    pub(super) fn quoted(&self) -> String {
        crate::quote::qualified(&self.schema, &self.name)
    }

    /// Names its own rows and no heir's, as a statement that reads or changes them has to.
    pub(super) fn own_rows(&self) -> String {
        format!("{}{}", if self.partitioned { "" } else { "only " }, self.quoted())
    }

    /// Returns the columns that tell one row from all others, as far as there are any.
    pub(super) fn names(&self) -> Option<&[String]> {
        match &self.identity {
            Identity::Columns(names) => Some(names),
            Identity::Nothing | Identity::Whole => self.keys.first().map(Vec::as_slice),
        }
    }

    /// Tells whether rows that are written to the one look in the stream like rows of the other.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        let columns = |table: &Self| -> Vec<(i16, String, String)> {
            let column = |column: &Column| (column.number, column.name.clone(), column.full.clone());
            table.columns.iter().map(column).collect()
        };
        (&self.schema, &self.name) == (&other.schema, &other.name) && columns(self) == columns(other)
    }

    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(super) fn numbered(&self, number: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }
}

impl Layout {
    pub(super) fn table(&self, oid: u32) -> Option<&Table> {
        let at = self.tables.binary_search_by_key(&oid, |table| table.oid).ok()?;
        self.tables.get(at)
    }

    pub(super) fn named(&self, schema: &str, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.schema == schema && table.name == name)
    }

    /// Returns the table in whose place a partition's rows are written: the topmost, or itself.
    pub(super) fn top<'a>(&'a self, table: &'a Table) -> &'a Table {
        table.root.and_then(|root| self.table(root)).unwrap_or(table)
    }

    /// Reads it on a session with an empty search path.
    pub(super) async fn read(client: &Client) -> Result<Self, DbError> {
        let what = || "read how the tables are laid out".to_owned();
        let rows = client.query(TABLES, &[&SCHEMA]).await.doing(what)?;
        let mut tables: Vec<Table> = rows
            .iter()
            .map(|row| {
                let whole: bool = row.get(6);
                let columns: Option<Vec<String>> = row.get(7);
                Table {
                    oid: row.get(0),
                    schema: row.get(1),
                    name: row.get(2),
                    partitioned: row.get(3),
                    unlogged: row.get(4),
                    root: row.get(5),
                    identity: match columns {
                        _ if whole => Identity::Whole,
                        Some(columns) => Identity::Columns(columns),
                        // Triggers note the whole row of what has no key.
                        None if row.get(10) => Identity::Whole,
                        None => Identity::Nothing,
                    },
                    keys: Vec::new(),
                    columns: Vec::new(),
                    file: row.get(8),
                    made_by: xids(&row.get::<_, Vec<String>>(9)),
                }
            })
            .collect();
        let at = |tables: &[Table], oid: u32| tables.binary_search_by_key(&oid, |table| table.oid).ok();
        let mut defaults = Vec::new();
        for row in client.query(COLUMNS, &[]).await.doing(what)? {
            let Some(at) = at(&tables, row.get(0)) else { continue };
            let (generated, identity): (String, String) = (row.get(9), row.get(10));
            tables[at].columns.push(Column {
                number: row.get(1),
                name: row.get(2),
                type_name: row.get(3),
                bare: row.get(4),
                full: row.get(5),
                builtin: row.get(6),
                not_null: row.get(7),
                has_default: row.get(8),
                generated: match generated.as_str() {
                    "" => Generated::No,
                    "v" => Generated::Virtual,
                    _ => Generated::Stored,
                },
                always_identity: identity == "a",
                made_of: row.get(11),
                missing: row.get(12),
                constant: None,
                equal: row.get(14),
            });
            if let Some(default) = row.get::<_, Option<String>>(13) {
                let column = tables[at].columns.len() - 1;
                defaults.push((at, column, format!("({default})::{}", tables[at].columns[column].full)));
            }
        }
        for some in defaults.chunks(DEFAULTS) {
            let texts: Vec<String> = some.iter().map(|(.., default)| format!("({default})::text")).collect();
            let row = client.query_one(&format!("select {}", texts.join(", ")), &[]).await.doing(what)?;
            for (number, (table, column, _)) in some.iter().enumerate() {
                tables[*table].columns[*column].constant = row.get(number);
            }
        }
        for row in client.query(KEYS, &[]).await.doing(what)? {
            if let Some(at) = at(&tables, row.get(0)) {
                tables[at].keys.push(row.get(1));
            }
        }
        let foreign_keys = client.query(FOREIGN_KEYS, &[]).await.doing(what)?;
        let sequences = client.query(SEQUENCES, &[&SCHEMA]).await.doing(what)?;
        let lsn: String = client
            .query_one("select pg_catalog.pg_current_wal_insert_lsn()::text", &[])
            .await
            .doing(what)?
            .get(0);
        Ok(Self {
            lsn: lsn.parse().map_err(DbError::Replay)?,
            tables,
            foreign_keys: foreign_keys
                .iter()
                .map(|row| ForeignKey {
                    name: row.get(0),
                    table: row.get(1),
                    columns: row.get(2),
                    to: row.get(3),
                    to_columns: row.get(4),
                    valid: row.get(5),
                    full: row.get(6),
                    equal: row.get(7),
                    indexed: row.get(8),
                })
                .collect(),
            sequences: sequences
                .iter()
                .map(|row| Sequence {
                    oid: row.get(0),
                    schema: row.get(1),
                    name: row.get(2),
                    numbers: row
                        .get::<_, Vec<u32>>(3)
                        .into_iter()
                        .zip(row.get::<_, Vec<String>>(4))
                        .collect(),
                    ascends: row.get(5),
                })
                .collect(),
        })
    }
}

fn xids(texts: &[String]) -> Vec<u32> {
    let mut xids: Vec<u32> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    xids.sort_unstable();
    xids.dedup();
    xids
}

/// How many defaults are asked for at once: a row has no more than 1,664 columns.
const DEFAULTS: usize = 1_000;

/// The tables, with what of the catalogue's rows tells who has made them as they are: the row type's row changes with the name and
/// not with a GRANT.
const TABLES: &str = "
    with recursive top as (
        select c.oid, c.oid as root from pg_catalog.pg_class c where c.relkind in ('r', 'p') and not c.relispartition
        union all
        select i.inhrelid, top.root from top
        join pg_catalog.pg_inherits i on i.inhparent = top.oid
        join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relispartition)
    select c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relpersistence = 'u',
           nullif(top.root, c.oid), c.relreplident = 'f',
           (select array(select a.attname::text from pg_catalog.unnest(i.indkey) k
                         join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k)
            from pg_catalog.pg_index i
            where i.indrelid = c.oid and i.indisvalid and i.indimmediate
              and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end),
           c.relfilenode,
           array(select a.xmin::text from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0
                 union select t.xmin::text from pg_catalog.pg_type t where t.oid = c.reltype),
           pg_catalog.to_regclass('piton_capture.change') is not null
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    left join top on top.oid = c.oid
    where c.relkind in ('r', 'p') and c.relpersistence <> 't'
      and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' and n.nspname not in ($1, 'piton_capture')
    order by c.oid";

/// The columns, with the equality of each. A type has that of what a domain is made of, or what it can be taken for.
const COLUMNS: &str = "
    with recursive base as (
        select t.oid, t.oid as base from pg_catalog.pg_type t where t.typtype <> 'd'
        union all
        select d.oid, base.base from base join pg_catalog.pg_type d on d.typbasetype = base.oid and d.typtype = 'd'),
    classes as materialized (
        select c.oid, c.opcdefault as by_default, c.opcintype as type,
               pg_catalog.format('operator(%I.%s)', n.nspname, o.oprname) as equal
        from pg_catalog.pg_opclass c
        join pg_catalog.pg_am m on m.oid = c.opcmethod and m.amname = 'btree'
        join pg_catalog.pg_amop p on p.amopfamily = c.opcfamily and p.amopstrategy = 3
             and p.amoplefttype = c.opcintype and p.amoprighttype = c.opcintype
        join pg_catalog.pg_operator o on o.oid = p.amopopr
        join pg_catalog.pg_namespace n on n.oid = o.oprnamespace),
    single as materialized (
        select distinct on (base.oid) base.oid, classes.equal
        from base
        join pg_catalog.pg_type t on t.oid = base.base
        join classes on classes.by_default
        join pg_catalog.pg_type i on i.oid = classes.type
        where i.oid = t.oid
           or i.typname = case t.typtype when 'e' then 'anyenum' when 'r' then 'anyrange' when 'm' then 'anymultirange' end
           or exists (select from pg_catalog.pg_cast s where s.castsource = t.oid and s.casttarget = i.oid
                      and s.castmethod = 'b' and s.castcontext = 'i')
        order by base.oid, i.oid = t.oid desc, classes.type),
    equal as materialized (
        select oid, equal from single
        union all
        select base.oid, 'operator(pg_catalog.=)' from base
        join pg_catalog.pg_type e on e.typarray = base.base join single on single.oid = e.oid),
    keyed as materialized (
        select distinct on (i.indrelid, k.number) i.indrelid, k.number, classes.equal
        from pg_catalog.pg_index i
        cross join pg_catalog.unnest(i.indkey) with ordinality k(number, at)
        join classes on classes.oid = i.indclass[(k.at - 1)::int4]
        where i.indisunique and i.indisvalid and k.at <= i.indnkeyatts and k.number > 0
        order by i.indrelid, k.number, i.indisprimary desc, i.indimmediate desc, i.indexrelid)
    select a.attrelid, a.attnum, a.attname::text, pg_catalog.format_type(a.atttypid, null),
           pg_catalog.format_type(a.atttypid, -1), pg_catalog.format_type(a.atttypid, a.atttypmod),
           t.typnamespace = 'pg_catalog'::regnamespace, a.attnotnull or t.typnotnull, a.atthasdef or a.attidentity <> '',
           a.attgenerated::text, a.attidentity::text,
           coalesce(
             (select pg_catalog.string_agg(e.enumlabel, ',' order by e.oid) from pg_catalog.pg_enum e
              where e.enumtypid = coalesce(nullif(t.typelem, 0), t.oid)),
             (select pg_catalog.string_agg(m.attname || ' ' || m.atttypid::regtype::text, ',' order by m.attnum)
              from pg_catalog.pg_type c join pg_catalog.pg_attribute m on m.attrelid = c.typrelid
              where c.oid = coalesce(nullif(t.typelem, 0), t.oid) and c.typtype = 'c' and m.attnum > 0)),
           (a.attmissingval::text::text[])[1],
           -- A value as it is written, or an integer as a wider number: whatever else is computed may fail, and nobody may need it.
           case when d.adbin::text ~ '^[{](CONST|RELABELTYPE :arg [{]CONST|FUNCEXPR :funcid (481|1740|316) .*:args [(][{]CONST) '
                then pg_catalog.pg_get_expr(d.adbin, d.adrelid) end,
           coalesce(keyed.equal, equal.equal)
    from pg_catalog.pg_attribute a
    left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum and a.attgenerated = ''
    join pg_catalog.pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p')
    join pg_catalog.pg_type t on t.oid = a.atttypid
    left join keyed on keyed.indrelid = a.attrelid and keyed.number = a.attnum
    left join equal on equal.oid = a.atttypid
    where a.attnum > 0 and not a.attisdropped
    order by a.attrelid, a.attnum";

const KEYS: &str = "
    select i.indrelid,
           array(select a.attname::text from pg_catalog.unnest(i.indkey) with ordinality k(number, at)
                 join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                 where k.at <= i.indnkeyatts order by k.at)
    from pg_catalog.pg_index i
    join pg_catalog.pg_class c on c.oid = i.indrelid and c.relkind in ('r', 'p')
    where i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
      and not exists (select from pg_catalog.unnest(i.indkey) with ordinality k(number, at)
                      join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                      where k.at <= i.indnkeyatts and not a.attnotnull)
    order by i.indrelid, i.indisprimary desc, i.indexrelid";

const FOREIGN_KEYS: &str = "
    select c.conname::text, c.conrelid,
           array(select a.attname::text from pg_catalog.unnest(c.conkey) with ordinality k(number, at)
                 join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.number order by k.at),
           c.confrelid,
           array(select a.attname::text from pg_catalog.unnest(c.confkey) with ordinality k(number, at)
                 join pg_catalog.pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.number order by k.at),
           c.convalidated, c.confmatchtype = 'f',
           array(select case when p.attcollation not in (0, f.attcollation)
                             then pg_catalog.format('collate %I.%I ', cn.nspname, l.collname) else '' end
                        || pg_catalog.format('operator(%I.%s)', n.nspname, o.oprname)
                 from rows from (pg_catalog.unnest(c.conpfeqop), pg_catalog.unnest(c.confkey), pg_catalog.unnest(c.conkey))
                      with ordinality k(operator, to_number, number, at)
                 join pg_catalog.pg_operator o on o.oid = k.operator
                 join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
                 join pg_catalog.pg_attribute p on p.attrelid = c.confrelid and p.attnum = k.to_number
                 join pg_catalog.pg_attribute f on f.attrelid = c.conrelid and f.attnum = k.number
                 left join pg_catalog.pg_collation l on l.oid = p.attcollation
                 left join pg_catalog.pg_namespace cn on cn.oid = l.collnamespace
                 order by k.at),
           exists (select from pg_catalog.pg_index i
                   where i.indrelid = c.conrelid and i.indisvalid and i.indpred is null and i.indkey[0] = any(c.conkey))
    from pg_catalog.pg_constraint c
    where c.contype = 'f' and c.conparentid = 0
      -- Before PostgreSQL 18, none is NOT ENFORCED.
      and coalesce((pg_catalog.to_jsonb(c) ->> 'conenforced')::bool, true)
    order by c.conrelid, c.conname";

const SEQUENCES: &str = "
    select c.oid, n.nspname::text, c.relname::text, u.tables, u.columns, s.seqincrement > 0
    from pg_catalog.pg_sequence s
    join pg_catalog.pg_class c on c.oid = s.seqrelid and c.relpersistence <> 't'
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral (
        select coalesce(pg_catalog.array_agg(a.attrelid), '{}') as tables, coalesce(pg_catalog.array_agg(a.attname::text), '{}') as columns
        from (select d.refobjid, d.refobjsubid::int4 from pg_catalog.pg_depend d
              where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid
                and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')
              union
              select f.adrelid, f.adnum from pg_catalog.pg_depend d join pg_catalog.pg_attrdef f on f.oid = d.objid
              where d.classid = 'pg_catalog.pg_attrdef'::regclass and d.refclassid = 'pg_catalog.pg_class'::regclass
                and d.refobjid = c.oid) numbered(tab, number)
        join pg_catalog.pg_attribute a on a.attrelid = numbered.tab and a.attnum = numbered.number
             and exists (
               with recursive base(oid) as (
                 select a.atttypid union all
                 select d.typbasetype from base join pg_catalog.pg_type d on d.oid = base.oid and d.typtype = 'd')
               select from base where base.oid = any('{smallint,integer,bigint,numeric}'::regtype[]))) u
    where n.nspname <> $1 and not exists (select from pg_catalog.pg_depend e
          where e.classid = 'pg_catalog.pg_class'::regclass and e.objid = c.oid and e.deptype = 'e')
    order by c.oid";
