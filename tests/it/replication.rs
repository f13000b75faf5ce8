//! A leader and two followers: whatever dies, and whoever leads next, what all in-sync replicas acknowledged survives.
//! What the leader alone had may be lost, and is then cut from it; never do two histories stand in one log.

mod cluster;

use cluster::{Cluster, Death, lines};

/// Draws each decision of a schedule in every way there is, one schedule after the other.
#[derive(Debug, Default)]
struct EveryWay {
    /// What was drawn, and of how many.
    drawn: Vec<(usize, usize)>,
    at: usize,
}

impl EveryWay {
    fn pick(&mut self, of: usize) -> usize {
        if self.at == self.drawn.len() {
            self.drawn.push((0, of));
        }
        let (choice, was_of) = self.drawn[self.at];
        assert_eq!(of, was_of, "the same decisions lead to the same questions");
        self.at += 1;
        choice
    }

    /// Goes on to the next schedule.
    fn turn(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, of)) = self.drawn.pop() {
            if choice + 1 < of {
                self.drawn.push((choice + 1, of));
                return true;
            }
        }
        false
    }
}

/// A leader with records that not everybody has dies, another one takes over, and the dead one comes back before or
/// after the new one has written, if it writes at all.
fn lose_the_leader(cluster: &mut Cluster, pick: &mut dyn FnMut(usize) -> usize) {
    let old = cluster.leader().unwrap();
    let followers = cluster.followers();
    cluster.append(2);
    match pick(3) {
        0 => {}
        1 => assert!(cluster.fetch(followers[pick(followers.len())])),
        _ => {
            for follower in followers {
                cluster.catch_up(follower);
            }
            cluster.acknowledge();
            // Nobody is told, and the leader goes on alone.
            cluster.append(1);
        }
    }
    cluster.die(old);
    let electable = cluster.electable();
    cluster.elect(electable[pick(electable.len())]);
    let is_back_first = pick(2) == 0;
    if is_back_first {
        cluster.come_back(old);
        cluster.heal(old);
    }
    if pick(2) == 0 {
        cluster.append(3);
    }
    if !is_back_first {
        cluster.come_back(old);
    }
    for follower in cluster.followers() {
        cluster.catch_up(follower);
    }
}

fn every_order(death: Death) {
    let mut ways = EveryWay::default();
    let (mut schedules, mut lost) = (0, 0);
    loop {
        let mut cluster = Cluster::new(death, 7);
        cluster.elect(0);
        cluster.append(3);
        for follower in [1, 2] {
            cluster.catch_up(follower);
        }
        cluster.acknowledge();
        for _ in 0..2 {
            lose_the_leader(&mut cluster, &mut |of| ways.pick(of));
        }
        lost += cluster.finish();
        schedules += 1;
        if !ways.turn() {
            break;
        }
    }
    assert_eq!(schedules, 32 * 32);
    assert!(lost > 0, "some leader had to cut what it alone had");
}

#[test]
fn every_order_of_elections_keeps_what_all_in_sync_replicas_have_over_kills() {
    every_order(Death::Kill);
}

#[test]
fn every_order_of_elections_keeps_what_all_in_sync_replicas_have_over_power_losses() {
    every_order(Death::PowerLoss);
}

fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("ALLUVIUM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

fn one_of(of: &[usize], rng: &mut fastrand::Rng) -> Option<usize> {
    (!of.is_empty()).then(|| of[rng.usize(..of.len())])
}

fn random_step(cluster: &mut Cluster, rng: &mut fastrand::Rng) {
    if cluster.leader().is_none() {
        if let Some(next) = one_of(&cluster.electable(), rng).filter(|_| rng.u8(..3) > 0) {
            cluster.elect(next);
        } else if let Some(dead) = one_of(&cluster.dead(), rng) {
            cluster.come_back(dead);
        }
        return;
    }
    let follower = one_of(&cluster.followers(), rng);
    match (rng.u8(..24), follower) {
        (0..7, _) => cluster.append(rng.usize(1..4)),
        (7..11, Some(follower)) => drop(cluster.fetch(follower)),
        (11..14, Some(follower)) => cluster.catch_up(follower),
        (14..17, _) => cluster.acknowledge(),
        (17, Some(follower)) => cluster.tell(follower),
        (18, _) => {
            let alive = cluster.alive();
            cluster.die(alive[rng.usize(..alive.len())]);
        }
        // The leader hands over, or is taken for dead; it goes on as a follower.
        (19, _) => {
            if let Some(next) = one_of(&cluster.electable(), rng) {
                cluster.elect(next);
            }
        }
        _ => {
            if let Some(dead) = one_of(&cluster.dead(), rng) {
                cluster.come_back(dead);
            }
        }
    }
}

#[test]
fn random_schedules_of_deaths_and_elections_lose_nothing_that_was_acknowledged() {
    let mut lost = 0;
    for seed in seeds() {
        for death in [Death::Kill, Death::PowerLoss] {
            let outcome = std::panic::catch_unwind(|| {
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut cluster = Cluster::new(death, seed);
                for _ in 0..80 {
                    random_step(&mut cluster, &mut rng);
                }
                cluster.finish()
            });
            lost += outcome.unwrap_or_else(|_| panic!("seed {seed} with {death:?}; what went wrong is said above"));
        }
    }
    assert!(lost > 0, "some leader had to cut what it alone had");
}

/// KIP-101, "high watermark truncation followed by immediate leader election": a follower that restarts has a high
/// watermark that is behind. Did it cut there, and its leader died, a record would be gone that both had.
#[test]
fn kip_101_a_restarted_follower_keeps_what_is_past_its_high_watermark() {
    for death in [Death::Kill, Death::PowerLoss] {
        let mut cluster = Cluster::new(death, 1);
        cluster.elect(0);
        cluster.append(1);
        cluster.catch_up(1);
        cluster.catch_up(2);
        cluster.acknowledge();
        cluster.tell(1);
        cluster.append(1);
        cluster.catch_up(1);
        cluster.catch_up(2);
        cluster.acknowledge();
        let right = lines(cluster.log(0));
        assert!(cluster.log(1).marks().high_watermark < cluster.log(1).log_end());
        cluster.die(1);
        cluster.come_back(1);
        cluster.heal(1);
        assert_eq!(lines(cluster.log(1)), right);
        // In sync again, and the leader dies at once.
        cluster.catch_up(1);
        cluster.die(0);
        cluster.elect(1);
        assert_eq!(lines(cluster.log(1)), right);
        assert_eq!(cluster.finish(), 0);
    }
}

/// KIP-101, "replica divergence on restart after multiple hard failures": both die, the one that has less comes back
/// first, leads, and writes where the other one has a record already.
#[test]
fn kip_101_two_histories_at_one_offset_do_not_stay() {
    for death in [Death::Kill, Death::PowerLoss] {
        let mut cluster = Cluster::new(death, 2);
        cluster.elect(0);
        cluster.append(1);
        cluster.catch_up(1);
        cluster.catch_up(2);
        cluster.acknowledge();
        cluster.append(1);
        cluster.log(0).flush().unwrap();
        for replica in [0, 1, 2] {
            cluster.die(replica);
        }
        cluster.come_back(1);
        cluster.lead(1);
        cluster.append(1);
        cluster.come_back(0);
        let (kept, other) = (lines(cluster.log(1)), lines(cluster.log(0)));
        assert_eq!(kept[1].0, other[1].0, "both have a record there");
        assert_ne!(kept[1], other[1]);
        cluster.catch_up(0);
        assert_eq!(lines(cluster.log(0)), kept);
        assert_eq!(cluster.finish(), other.len() - 1);
    }
}

/// KIP-279, "fast leader change": the new leader never heard of the epoch in which the follower wrote. An answer that
/// names only where the next epoch begins would leave the follower's own records below that in place.
#[test]
fn kip_279_an_epoch_that_the_leader_never_saw_is_cut_as_a_whole() {
    let mut cluster = Cluster::new(Death::Kill, 3);
    cluster.elect(0);
    cluster.append(6);
    cluster.catch_up(1);
    cluster.catch_up(2);
    cluster.acknowledge();
    let shared = lines(cluster.log(0)).len();
    cluster.append(4);
    cluster.lead(1);
    cluster.append(2);
    let written = lines(cluster.log(1)).len() - shared;
    cluster.die(1);
    cluster.lead(0);
    cluster.append(2);
    cluster.come_back(1);
    cluster.heal(1);
    assert_eq!(lines(cluster.log(1)), lines(cluster.log(0))[..shared]);
    assert_eq!(cluster.lost, written);
    cluster.catch_up(1);
    cluster.finish();
}

/// KIP-279: leaderships that alternate without any replication between them. The follower goes back epoch by epoch.
#[test]
fn kip_279_several_epochs_on_either_side_are_stepped_over() {
    for followers_of_0 in [false, true] {
        let mut cluster = Cluster::new(Death::Kill, 4);
        cluster.elect(0);
        cluster.append(4);
        cluster.catch_up(1);
        cluster.catch_up(2);
        cluster.acknowledge();
        let shared = lines(cluster.log(0)).len();
        for (leader, batches) in [(1, 3), (0, 6), (1, 6), (0, 4), (1, 0), (0, 0), (1, 1)] {
            cluster.lead(leader);
            cluster.append(batches);
        }
        let (leader, follower) = if followers_of_0 { (0, 1) } else { (1, 0) };
        cluster.lead(leader);
        cluster.append(1);
        cluster.heal(follower);
        assert_eq!(lines(cluster.log(follower)), lines(cluster.log(leader))[..shared]);
        assert!(cluster.lost > 0);
        cluster.finish();
    }
}

/// Leaders that write nothing leave an epoch behind that begins at the log end, and that nobody else hears of.
#[test]
fn epochs_without_records_are_forgotten_when_the_log_goes_on_without_them() {
    for dies in [None, Some(Death::Kill), Some(Death::PowerLoss)] {
        let mut cluster = Cluster::new(dies.unwrap_or(Death::Kill), 5);
        cluster.elect(0);
        cluster.append(3);
        cluster.catch_up(1);
        cluster.catch_up(2);
        cluster.acknowledge();
        for leader in [1, 2, 0, 2, 1] {
            cluster.elect(leader);
            assert_eq!(cluster.log(leader).leader_epochs().len(), 2);
            for follower in cluster.followers() {
                cluster.catch_up(follower);
                assert_eq!(
                    cluster.log(follower).leader_epochs().len(),
                    1,
                    "{:?}",
                    cluster.log(follower).leader_epochs()
                );
            }
            if dies.is_some() {
                let next = cluster.followers()[0];
                cluster.die(leader);
                cluster.elect(next);
                cluster.come_back(leader);
                assert_eq!(cluster.log(leader).leader_epochs().len(), 1);
                cluster.catch_up(leader);
            }
        }
        assert_eq!(cluster.finish(), 0);
    }
}
