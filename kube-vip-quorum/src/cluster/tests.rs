//! Commands, one by one and in random order.

use proptest::prelude::*;

use super::*;

fn host(name: &str) -> Host {
    Host { name: name.to_owned(), weight: 1, ..Host::default() }
}

fn vip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for (node, name) in [(1, "n1"), (2, "n2"), (3, "n3")] {
        cluster.apply(&Command::Host { node, host: host(name) }).unwrap();
    }
    let vips = BTreeMap::from([(vip(1), Vip::default()), (vip(2), Vip::default())]);
    cluster.apply(&Command::Vips(vips)).unwrap();
    cluster
}

#[test]
fn assignment_follows_the_one_it_names() {
    let mut cluster = cluster();
    let assign = |vip, after, to| Command::Assign { vip, after, to };
    cluster.apply(&assign(vip(1), 0, 1)).unwrap();
    cluster.apply(&assign(vip(2), 0, 2)).unwrap();
    assert_eq!(cluster.assignments[&vip(2)], Assignment { node: 2, epoch: 2 });
    let before = cluster.clone();
    let refused = [
        (assign(vip(1), 0, 2), Refused::Overtaken { vip: vip(1), epoch: 1 }),
        (assign(vip(1), 2, 2), Refused::Overtaken { vip: vip(1), epoch: 1 }),
        (assign(vip(9), 0, 2), Refused::NoSuchVip { vip: vip(9) }),
        (assign(vip(1), 1, 9), Refused::NoSuchHost { node: 9 }),
        (Command::Forget { node: 9 }, Refused::NoSuchHost { node: 9 }),
        (Command::Drain { node: 9, drained: true }, Refused::NoSuchHost { node: 9 }),
    ];
    for (command, why) in refused {
        assert_eq!(cluster.apply(&command), Err(why));
        assert_eq!(cluster, before);
    }
    cluster.apply(&assign(vip(1), 1, 3)).unwrap();
    assert_eq!(cluster.of(3).collect::<Vec<_>>(), [(vip(1), 3)]);
}

#[test]
fn host_with_a_new_number_takes_the_place_of_the_old_one() {
    let mut cluster = cluster();
    cluster.apply(&Command::Host { node: 7, host: host("n2") }).unwrap();
    assert_eq!(cluster.named("n2").map(|(node, _)| node), Some(7));
    assert_eq!(cluster.hosts.len(), 3);
}

#[test]
fn vip_that_comes_back_gets_a_later_epoch() {
    let mut cluster = cluster();
    cluster.apply(&Command::Assign { vip: vip(1), after: 0, to: 1 }).unwrap();
    let vips = cluster.vips.clone();
    cluster.apply(&Command::Vips(BTreeMap::new())).unwrap();
    assert!(cluster.assignments.is_empty());
    cluster.apply(&Command::Vips(vips)).unwrap();
    cluster.apply(&Command::Assign { vip: vip(1), after: 0, to: 2 }).unwrap();
    assert_eq!(cluster.assignments[&vip(1)].epoch, 2);
}

#[test]
fn readiness_and_drain_are_kept() {
    let mut cluster = cluster();
    let backend = SocketAddr::from(([10, 1, 0, 1], 80));
    cluster.apply(&Command::Ready { backend, ready: false }).unwrap();
    cluster.apply(&Command::Drain { node: 1, drained: true }).unwrap();
    assert!(cluster.unready.contains(&backend) && cluster.hosts[&1].drained);
    for admitted in [true, false] {
        cluster.apply(&Command::Admit { name: "n4".to_owned(), admitted }).unwrap();
        assert_eq!(cluster.admission["n4"], admitted);
    }
    cluster.apply(&Command::Ready { backend, ready: true }).unwrap();
    cluster.apply(&Command::Drain { node: 1, drained: false }).unwrap();
    assert!(cluster.unready.is_empty() && !cluster.hosts[&1].drained);
}

fn command() -> impl Strategy<Value = Command> {
    let addresses = prop::collection::btree_map((1u8..5).prop_map(vip), Just(Vip::default()), 0..4);
    prop_oneof![
        4 => ((1u8..5).prop_map(vip), 0u64..6, 0u64..5)
            .prop_map(|(vip, after, to)| Command::Assign { vip, after, to }),
        1 => addresses.prop_map(Command::Vips),
        1 => (0u64..5).prop_map(|node| Command::Forget { node }),
        1 => (0u64..5, 0u8..3).prop_map(|(node, n)| Command::Host { node, host: host(&format!("n{n}")) }),
    ]
}

proptest! {
    #[test]
    fn epochs_only_rise_and_commands_survive_being_written(
        commands in prop::collection::vec(command(), 0..40),
    ) {
        let mut cluster = cluster();
        for command in &commands {
            let before = cluster.clone();
            let text = serde_json::to_string(command).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Command>(&text).unwrap(), command);
            let _ = cluster.apply(command);
            for (vip, now) in &cluster.assignments {
                match before.assignments.get(vip) {
                    Some(old) if old == now => {}
                    _ => prop_assert!(now.epoch > before.epoch, "{vip} has an old epoch"),
                }
                prop_assert!(cluster.vips.contains_key(vip));
            }
            prop_assert!(cluster.epoch >= before.epoch);
            let names: BTreeSet<_> = cluster.hosts.values().map(|host| &host.name).collect();
            prop_assert_eq!(names.len(), cluster.hosts.len(), "a name twice");
        }
        let text = serde_json::to_string(&cluster).unwrap();
        prop_assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), cluster);
    }
}
