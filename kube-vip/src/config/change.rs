//! What of the configuration cannot change while the agent runs.

use super::{Config, Election};

/// Says what of a changed file needs a restart.
///
/// # Errors
/// The first setting that does.
pub fn check_change(new: &Config, old: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        new.instance == old.instance,
        "instance: {:?} cannot become {:?} while running; restart for that",
        old.instance,
        new.instance
    );
    anyhow::ensure!(
        new.election == old.election,
        "election, quorum, secret: they cannot change while running; restart for that"
    );
    let elects = matches!(new.election, Election::Quorum(_));
    anyhow::ensure!(
        !elects || new.local_peer == old.local_peer,
        "localPeer: a host that elects cannot change while running; restart for that"
    );
    anyhow::ensure!(
        !elects
            || new.remote_peers.iter().all(|peer| old.remote_peers.iter().all(|it| {
                it.id != peer.id || (&it.addresses, it.port) == (&peer.addresses, peer.port)
            })),
        "remotePeers: address and port of a host that elects cannot change while running; \
         restart that host with them, the others take them from it"
    );
    for (what, new, old) in [
        ("frontends", new.limits.frontends, old.limits.frontends),
        ("backends", new.limits.backends, old.limits.backends),
    ] {
        // `limits` leave twice the room that is needed.
        anyhow::ensure!(
            new / 2 <= old,
            "limits.{what}: the file needs {new}, {old} were made at the start; restart for that"
        );
    }
    Ok(())
}
