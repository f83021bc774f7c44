use piton_db::identity::{self, Purpose};
use piton_db::neutral;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};

/// Takes Piton's mark off a restored database: whoever ordered it may do with it as they like, and Piton drops it no more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandOver {
    /// The database's name.
    pub name: String,
}

impl Act for HandOver {
    fn words(&self, _site: &Site<'_>) -> Words {
        Words::new(format!("{} is yours: the mark is taken off", self.name), "closes the way back")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?.with_name(&self.name);
        let unreachable = || format!("{} cannot be reached", database.server());
        let label = super::label(ctx, Purpose::Golden);
        let place = identity::locate(&database).await.or_fault(unreachable)?;
        // Handed over before a kill; what its owner has done since, such as letting it take the live one's place, is theirs.
        if !place.mark.valid().is_some_and(|mark| mark.label == label) {
            return Ok(Value::Null);
        }
        // Whoever drops one as it was restored, drops the original's slot at the publisher.
        let inside = database.connect().await.or_fault(unreachable)?;
        neutral::part_from_slots(&inside)
            .await
            .or_fault(|| format!("the subscriptions of {} cannot be parted from their slots", self.name))?;
        drop(inside);
        let client = database.maintenance().await.or_fault(unreachable)?;
        identity::clear_mark(&client, &self.name)
            .await
            .or_fault(|| format!("the mark of {} cannot be removed", self.name))?;
        Ok(Value::Null)
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Err(Fault::refused("a database that was handed over is not taken back"))
    }
}
