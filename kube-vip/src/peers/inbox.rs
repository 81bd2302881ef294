//! Takes what other agents say.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kube_vip_common::frontend::Protocol;
use kube_vip_quorum::node::Receiver;
use kube_vip_quorum::transport::Answering;
use tokio::task::spawn_blocking;

use super::Shared;
use super::message::{Answer, Message, Outcome, Translated};
use crate::dataplane::{Flow, Link, Put, Records, SysError, Translation, World};
use crate::view::Mac;

/// Takes what other agents say.
pub(super) struct Inbox(pub(super) Arc<Shared>);

impl Receiver for Inbox {
    fn receive(&self, from: &str, body: Vec<u8>) -> Answering {
        let (shared, from) = (Arc::clone(&self.0), from.to_owned());
        Box::pin(async move {
            let life = shared.life;
            // Maps are written beside what answers hosts in time.
            let outcome = spawn_blocking(move || shared.take(&from, &body)).await;
            Some(Answer { outcome: outcome.ok()?, life }.encode())
        })
    }
}

impl Shared {
    fn take(&self, from: &str, body: &[u8]) -> Outcome {
        let world = self.world();
        let taken = match Message::decode(body) {
            Ok(Message::Greeting) => Ok(Outcome::Taken),
            // Its own data plane is not there yet.
            Ok(_) if world.uplink.is_none() => Ok(Outcome::Later),
            Ok(Message::Translations(records)) => self.take_translations(&world, &records),
            Ok(Message::Strays(flows)) => self.take_strays(&world, from, &flows),
            Err(error) => {
                tracing::warn!(from, "a message of another agent is not understood: {error}");
                return Outcome::Strange;
            }
        };
        taken.unwrap_or_else(|error| {
            tracing::warn!(from, "what another host tells cannot be written: {error:#}");
            Outcome::Later
        })
    }

    fn take_translations(
        &self,
        world: &World,
        records: &[Translated],
    ) -> Result<Outcome, SysError> {
        for record in records {
            let written = match translation(world, record) {
                Some(translation) => {
                    let keeps = world.owned.contains(&record.flow.vip.ip());
                    self.records.put_translation(&translation, keeps)? == Put::Written
                }
                None => false,
            };
            let tally = if written { &self.tally.translations } else { &self.tally.refused };
            tally.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Outcome::Taken)
    }

    fn take_strays(&self, world: &World, from: &str, flows: &[Flow]) -> Result<Outcome, SysError> {
        let Some(node) = world.nodes.get(from) else { return Ok(Outcome::Later) };
        let known =
            |flow: &&Flow| port(flow).is_some_and(|port| world.frontends.contains_key(&port));
        let used: Vec<_> = flows.iter().filter(known).copied().collect();
        self.records.put_strays(&used, *node)?;
        self.tally.strays.fetch_add(used.len() as u64, Ordering::Relaxed);
        self.tally.refused.fetch_add((flows.len() - used.len()) as u64, Ordering::Relaxed);
        Ok(Outcome::Taken)
    }
}

/// The frontend that a flow came to.
pub(super) fn port(flow: &Flow) -> Option<crate::dataplane::Port> {
    let protocol = match flow.protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    Some((flow.vip.ip(), flow.vip.port(), protocol))
}

/// A translated flow as this host can use it; nothing where this host would not translate it.
fn translation(world: &World, record: &Translated) -> Option<Translation> {
    let port = port(&record.flow)?;
    // The port must be one that replies are looked for at.
    let (source, protocol) = ((port.0, record.port, port.2), port.2);
    let frontend = world.frontends.get(&port)?;
    if frontend.from_node || world.frontends.contains_key(&source) {
        return None;
    }
    let (backend, way) = match world.backend(&(protocol, record.server)) {
        Some((backend, way)) => (*backend, *way),
        // It has been taken away, and still has connections.
        None => (0, None),
    };
    let told = |mac: Mac| if mac == Mac::default() { None } else { world.on_uplink(mac) };
    let to_server: Option<Link> = way.or_else(|| told(record.to_server));
    Some(Translation {
        flow: record.flow,
        port: record.port,
        server: record.server,
        backend,
        state: record.state,
        // A second more, so that the first packet of either end counts as news.
        seen: Records::now().wrapping_sub(record.idle.saturating_add(1)),
        to_client: told(record.to_client),
        to_server,
    })
}
