//! WebSockets: after the upgrade, bytes are copied both ways until one side ends.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::meter::OpenWebSocket;
use crate::slot::Slot;
use crate::worker::Worker;

/// Joins the two ends in a task of its own, counted on `slot` as long as it lives.
pub(crate) fn join(worker: &Rc<Worker>, slot: Slot, client: OnUpgrade, upstream: OnUpgrade) {
    let counted = OpenWebSocket::begin(&worker.meter, slot);
    let open = worker.tunnel();
    tokio::task::spawn_local(async move {
        // A client that leaves during the upgrade, and an end that breaks off, are no failures of the slot.
        if let (Ok(client), Ok(upstream)) = (client.await, upstream.await) {
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            if let Err(error) = copy_bidirectional(&mut client, &mut upstream).await {
                tracing::debug!(%slot, %error, "websocket broke off");
            }
        }
        drop((counted, open));
    });
}
