use piton_db::identity::Purpose;
use piton_db::{facts, made, quote, swap};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::hold::Hold;
use super::rewind::swapped;
use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};

/// Replaces staging's database by a copy of the golden copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloneData {
    /// The golden copy.
    pub golden: String,
    /// The next database's name before it takes staging's.
    pub fresh: String,
    /// What the replaced database is called.
    pub replaced: String,
}

impl CloneData {
    fn existed(&self, ctx: &Ctx<'_, '_>) -> bool {
        let noted = ctx.noted().as_ref().and_then(|note| note.get("existed")).and_then(Value::as_bool);
        noted.unwrap_or(true)
    }
}

impl Act for CloneData {
    fn words(&self, site: &Site<'_>) -> Words {
        let does = format!("{}'s database is made anew from the golden copy", site.settings.environment);
        let words = Words::new(does, "the database before takes its place again");
        let Ok(live) = super::database_of(site.settings) else { return words };
        let rename = |from: &str, to: &str| {
            format!("ALTER DATABASE {} RENAME TO {}", quote::ident(from), quote::ident(to))
        };
        let away = rename(&live.dbname, &self.replaced);
        let in_place = rename(&self.fresh, &live.dbname);
        words
            .with(site.client("createdb", None, ["--template", &self.golden, &self.fresh]))
            .with(site.psql(Some("postgres"), ["-1", "-c", &away, "-c", &in_place]))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let live = super::database_of(ctx.settings())?;
        let unreachable = || format!("{live} cannot be reached");
        if ctx.noted().is_none() {
            let existed = facts::exists(&live).await.or_fault(unreachable)?;
            ctx.note(&json!({ "existed": existed }))?;
        }
        let label = super::label(ctx, Purpose::Clone);
        let cannot = || "staging's database cannot be made".to_owned();
        if !self.existed(ctx) {
            made::clone_from(&live, &self.golden, &label).await.or_fault(cannot)?;
            return Ok(json!({ "new": true }));
        }
        if swapped(&live, &self.fresh, &self.replaced).await? {
            return Ok(json!({ "new": false }));
        }
        made::clone_from(&live.with_name(&self.fresh), &self.golden, &label).await.or_fault(cannot)?;
        let mut hold = Hold::new(ctx).await?;
        hold.begin().await?;
        let swapped = swap::swap(&live, &self.fresh, &self.replaced).await.or_fault(cannot);
        Hold::let_recover(ctx).await;
        hold.end().await?;
        swapped?;
        Ok(json!({ "new": false }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        if ctx.noted().is_none() {
            return Ok(Value::Null);
        }
        let live = super::database_of(ctx.settings())?;
        if !self.existed(ctx) {
            super::drop_made(&live, &live.dbname).await?;
            return Ok(Value::Null);
        }
        let cannot = || "the database before cannot be put back".to_owned();
        let mut hold = Hold::new(ctx).await?;
        hold.begin().await?;
        let put_back = async {
            if swapped(&live, &self.fresh, &self.replaced).await? {
                swap::swap(&live, &self.replaced, &self.fresh).await.or_fault(cannot)?;
            }
            super::drop_made(&live, &self.fresh).await
        };
        let put_back = put_back.await;
        hold.end().await?;
        put_back.map(|_| Value::Null)
    }
}
