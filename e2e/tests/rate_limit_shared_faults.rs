//! Limits of scope Shared while something happens to their store in the middle of an open load: it is killed and comes back, or
//! its cluster moves the very slots that are in use.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fusebox_e2e::replicas::{Answered, Passed, Replicas, Traffic};
use fusebox_policy::config::{RedisTopology, StoreFailure};
use fusebox_testkit::{Redis, RedisCluster};

use crate::rate_limit_shared::{PATIENT_MS, RATE, REPLICAS, assert_exact, limited, most};

/// For how long a proxy may still answer by what the store said before it died: nothing that it refused is refused for longer
/// than one request takes to come back, which is 10 ms.
const REMEMBERED: Duration = Duration::from_millis(100);

/// What no answer takes longer than, on a machine that runs other tests: a decision has 200 ms.
const HANGING: Duration = Duration::from_secs(2);

/// One load with a Redis that is killed and started again while it goes on.
struct Interrupted {
    passed: Passed,
    begun: Instant,
    /// Just before it was killed: from then on a decision may find it gone.
    dying: Instant,
    killed: Instant,
    /// Just before it was started again.
    starting: Instant,
    /// Every proxy uses it again.
    back: Instant,
    ended: Instant,
}

impl Interrupted {
    async fn run(on_failure: StoreFailure, replicas: usize) -> Result<Self> {
        let mut redis = Redis::start().await?;
        let single = RedisTopology::Single { address: redis.address().to_string() };
        let replicas = Replicas::start(replicas, &limited(single, (on_failure, 200))?).await?;
        let traffic = Traffic { rate: 400, time: Duration::from_secs(14), clients: 1 };
        let begun = Instant::now();
        let interrupting = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let dying = Instant::now();
            redis.kill();
            let killed = Instant::now();
            tokio::time::sleep(Duration::from_secs(3)).await;
            let starting = Instant::now();
            redis.restart().await?;
            replicas.show("every replica uses the store again", |it| !it.to_string().contains("storeLost")).await?;
            Ok::<_, anyhow::Error>((dying, killed, starting, Instant::now()))
        };
        let (passed, interrupted) = tokio::join!(replicas.send(traffic), interrupting);
        let (passed, (dying, killed, starting, back)) = (passed?, interrupted?);
        let this = Self { passed, begun, dying, killed, starting, back, ended: Instant::now() };
        this.check(&replicas, on_failure)?;
        Ok(this)
    }

    /// What holds whatever is declared: an answer to each request, and exact limits while there is a store.
    fn check(&self, replicas: &Replicas, on_failure: StoreFailure) -> Result<()> {
        let Self { passed, begun, dying, starting, back, ended, .. } = self;
        let declared: &[u16] = if on_failure == StoreFailure::Closed { &[200, 429, 503] } else { &[200, 429] };
        println!(
            "{on_failure:?}: {:?}, slowest {:?}, used again {:?} after its start",
            passed.answers,
            passed.slowest,
            *back - *starting
        );
        ensure!(passed.other_than(declared) == 0, "other answers, or none: {:?}", passed.answers);
        ensure!(passed.slowest < HANGING, "an answer took {:?}", passed.slowest);
        ensure!(replicas.application.requests() == passed.allowed(), "the application saw others");
        ensure!(*back + Duration::from_secs(1) < *ended, "it came back too late to show anything");
        let before = allowed(passed.between(*begun, *dying));
        ensure!(before <= most(*dying - *begun), "{before} passed before");
        // It has forgotten everything: its buckets are full when it starts.
        let after = allowed(passed.between(*back, *ended));
        let bound = most(*ended - *starting);
        ensure!(after <= bound, "{after} of {bound} passed after");
        ensure!(
            after * 1_000 >= (*ended - *back).as_millis() as u64 * u64::from(RATE.requests) * 7 / 10,
            "only {after}"
        );
        ensure!(passed.between(*back, *ended).all(|answer| answer.status != 503), "refused with the store there");
        Ok(())
    }

    /// The answers of the time in which there was certainly no store.
    fn away(&self) -> Vec<Answered> {
        self.passed.between(self.killed + REMEMBERED, self.starting).copied().collect()
    }
}

fn allowed<'a>(answers: impl Iterator<Item = &'a Answered>) -> u64 {
    answers.filter(|answer| answer.status == 200).count() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_killed_under_load_lets_nothing_pass_where_closed_is_declared_until_it_is_back() -> Result<()> {
    let interrupted = Interrupted::run(StoreFailure::Closed, REPLICAS).await?;
    let away = interrupted.away();
    ensure!(away.len() > 500 && away.iter().all(|answer| answer.status == 503), "{:?}", interrupted.passed.answers);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_killed_under_load_lets_everything_pass_where_open_is_declared_until_it_is_back() -> Result<()> {
    let interrupted = Interrupted::run(StoreFailure::Open, REPLICAS).await?;
    let away = interrupted.away();
    ensure!(away.len() > 500 && away.iter().all(|answer| answer.status == 200), "{:?}", interrupted.passed.answers);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_killed_under_load_leaves_each_replica_its_part_where_an_estimate_is_declared() -> Result<()> {
    // Nobody tells these two how many they are, so that each has the whole limit, and half the load is more than that.
    let interrupted = Interrupted::run(StoreFailure::LocalEstimate, 2).await?;
    let away = interrupted.away();
    let (passed, time) = (allowed(away.iter()), interrupted.starting - interrupted.killed);
    let bound = 2 * most(time);
    println!("{passed} of at most {bound} passed in {time:?} without the store");
    ensure!(passed <= bound && passed * 10 >= bound * 7, "{passed} of {bound}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_whose_slots_are_moved_between_nodes_under_load_pass_exactly() -> Result<()> {
    let cluster = RedisCluster::start().await?;
    let addresses = vec![cluster.nodes[0].address().to_string()];
    let config = limited(RedisTopology::Cluster { addresses }, (StoreFailure::Closed, PATIENT_MS))?;
    let replicas = Replicas::start(REPLICAS, &config).await?;
    let traffic = Traffic { clients: 4, rate: 1_200, time: Duration::from_secs(6) };
    let until = Instant::now() + traffic.time;
    let (passed, moved) = tokio::join!(replicas.send(traffic), moving(&cluster, until));
    let (moved, asked) = (moved?, cluster.calls("asking").await?);
    println!("{moved} slots were moved, and nodes were asked in between {asked} times");
    ensure!(moved >= 4, "only {moved} slots were moved");
    ensure!(asked > 0, "no decision met a slot on its way");
    assert_exact(&replicas.application, &passed?, traffic.clients)
}

/// Moves every slot that is in use to the next node, again and again; how many.
async fn moving(cluster: &RedisCluster, until: Instant) -> Result<usize> {
    let mut moved = 0;
    while Instant::now() < until {
        for (slot, from) in cluster.slots_with_keys().await? {
            let way = (from, (from + 1) % cluster.nodes.len());
            cluster.begin_moving(slot, way).await?;
            cluster.move_keys(slot, way).await?;
            // Decisions come to the old node meanwhile, and are sent on with ASK.
            tokio::time::sleep(Duration::from_millis(30)).await;
            cluster.end_moving(slot, way.1).await?;
            moved += 1;
        }
    }
    Ok(moved)
}
