//! Contests between ours and hand-written baselines in one run. Criterion measures one function after the other, and a
//! machine that slows down in between would decide the outcome; here every round runs all contenders, each time in
//! another order, and what counts is the median over the rounds of the ratio within a round. `best` is the ratio of the
//! best rounds, which says more when others use the machine.
//!
//! `ALLUVIUM_BENCH_ROUNDS` sets the number of rounds (default 15), `ALLUVIUM_BENCH_SCALE` multiplies the work of each
//! (default 1.0), `ALLUVIUM_BENCH_DIR` says where files go (default: the target directory), `ALLUVIUM_BENCH_PAIRED=0`
//! leaves the contests out and `ALLUVIUM_BENCH_PAIRED=only` everything else. A word on the command line picks cases.

use std::path::PathBuf;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};

/// Does some number of operations and says how long they took; preparation and cleaning up are not counted.
pub(crate) type Run = Box<dyn FnMut(u64) -> Duration>;

/// What one operation amounts to.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    /// So many bytes; rates are printed in bytes.
    Bytes(u64),
    /// So many things of this name; rates are printed in things.
    Things(u64, &'static str),
}

/// Who takes part.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) is_raw: bool,
    pub(crate) run: Run,
}

/// The baseline.
pub(crate) fn raw(name: &'static str, run: impl FnMut(u64) -> Duration + 'static) -> Contender {
    Contender { name, is_raw: true, run: Box::new(run) }
}

/// What is measured against it.
pub(crate) fn ours(name: &'static str, run: impl FnMut(u64) -> Duration + 'static) -> Contender {
    Contender { name, is_raw: false, run: Box::new(run) }
}

/// One thing to be done in several ways.
pub(crate) struct Contest {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    /// Operations in a round.
    pub(crate) operations: u64,
    pub(crate) contenders: Vec<Contender>,
}

/// How much is asked for.
pub(crate) struct Settings {
    rounds: usize,
    scale: f64,
    filter: Option<String>,
    is_quick: bool,
    runs_paired: bool,
    runs_criterion: bool,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Settings {
    /// From the environment and the command line, whose flags are criterion's.
    pub(crate) fn from_environment() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        let is_quick = has("--quick");
        let only_criterion = has("--test") || has("--list") || has("--load-baseline");
        let paired = variable("ALLUVIUM_BENCH_PAIRED").unwrap_or_default();
        let rounds = variable("ALLUVIUM_BENCH_ROUNDS").and_then(|value| value.parse().ok());
        let scale = variable("ALLUVIUM_BENCH_SCALE").and_then(|value| value.parse().ok());
        Self {
            rounds: rounds.unwrap_or(if is_quick { 5 } else { 15 }),
            scale: scale.unwrap_or(1.0),
            filter: arguments.iter().find(|argument| !argument.starts_with('-')).cloned(),
            is_quick,
            runs_paired: paired != "0" && !only_criterion,
            runs_criterion: paired != "only",
        }
    }

    /// The same for benchmarks that scale what they work on instead of how often they do.
    pub(crate) fn unscaled(mut self) -> Self {
        self.scale = 1.0;
        self
    }

    /// `operations`, more or less of them as the environment asks.
    pub(crate) fn scaled(&self, operations: u64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let scaled = (operations as f64 * self.scale) as u64;
        scaled.max(1)
    }
}

/// Where files of a benchmark go: a real disk, which `/tmp` often is not.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let parent = variable("ALLUVIUM_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned());
    let dir = PathBuf::from(parent).join(format!("bench-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the directory for benchmarks can be made");
    dir
}

/// Runs contests and criterion groups for whatever `contests` gives.
pub(crate) fn run(group: &str, settings: &Settings, contests: Vec<Contest>) {
    let wanted = |contest: &Contest| {
        let name = format!("{group}/{}", contest.name);
        settings.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()))
    };
    let mut contests: Vec<Contest> = contests.into_iter().filter(wanted).collect();
    if settings.runs_paired {
        for contest in &mut contests {
            contest.operations = settings.scaled(contest.operations);
            hold(group, contest, settings.rounds);
        }
    }
    if settings.runs_criterion {
        let mut criterion = criterion(settings);
        for contest in &mut contests {
            measure(&mut criterion, group, contest);
        }
        criterion.final_summary();
    }
}

fn criterion(settings: &Settings) -> Criterion {
    let time = if settings.is_quick { 300 } else { 1500 };
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(time / 3))
        .measurement_time(Duration::from_millis(time))
        .configure_from_args()
}

fn measure(criterion: &mut Criterion, group: &str, contest: &mut Contest) {
    let mut group = criterion.benchmark_group(format!("{group}/{}", contest.name));
    group.throughput(match contest.unit {
        Unit::Bytes(bytes) => Throughput::Bytes(bytes),
        Unit::Things(things, _) => Throughput::Elements(things),
    });
    for contender in &mut contest.contenders {
        group.bench_function(BenchmarkId::from_parameter(contender.name), |bencher| {
            bencher.iter_custom(|iterations| (contender.run)(iterations));
        });
    }
    group.finish();
}

/// Runs all rounds and prints one line for each pair of ours and raw.
fn hold(group: &str, contest: &mut Contest, rounds: usize) {
    let mut rates: Vec<Vec<f64>> = contest.contenders.iter().map(|_| Vec::with_capacity(rounds)).collect();
    let count = contest.contenders.len();
    // A first turn that is not counted: pages, branch predictors and the allocator get warm.
    for contender in &mut contest.contenders {
        (contender.run)(contest.operations.div_ceil(8));
    }
    for round in 0..rounds {
        for turn in 0..count {
            // Each goes first as often as any other, and in every second round the order is turned round.
            let forward = (turn + round / 2) % count;
            let at = if round % 2 == 0 { forward } else { count - 1 - forward };
            let took = (contest.contenders[at].run)(contest.operations);
            rates[at].push(rate(contest.unit, contest.operations, took));
        }
    }
    for (ours, our_rates) in contest.contenders.iter().zip(&rates).filter(|(contender, _)| !contender.is_raw) {
        let raws = contest.contenders.iter().zip(&rates).filter(|(contender, _)| contender.is_raw);
        for (raw, raw_rates) in raws {
            let mut ratios: Vec<f64> = our_rates.iter().zip(raw_rates).map(|(our, raw)| our / raw).collect();
            ratios.sort_by(f64::total_cmp);
            println!(
                "{:<44} {:<22} {:>11}   {:<20} {:>11}   ratio {:.2} ({:.2}..{:.2}), best {:.2}",
                format!("{group} {}", contest.name),
                raw.name,
                shown(contest.unit, median(raw_rates)),
                ours.name,
                shown(contest.unit, median(our_rates)),
                median(&ratios),
                ratios.first().copied().unwrap_or_default(),
                ratios.last().copied().unwrap_or_default(),
                best(our_rates) / best(raw_rates),
            );
        }
    }
}

fn rate(unit: Unit, operations: u64, took: Duration) -> f64 {
    let (Unit::Bytes(each) | Unit::Things(each, _)) = unit;
    #[expect(clippy::cast_precision_loss, reason = "rates are printed with three digits")]
    let amount = (operations * each) as f64;
    amount / took.as_secs_f64()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// What was reached when nothing else had the machine.
fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN_POSITIVE, f64::max)
}

fn shown(unit: Unit, rate: f64) -> String {
    let (scale, prefix) = match rate {
        rate if rate >= 1e9 => (1e9, "G"),
        rate if rate >= 1e6 => (1e6, "M"),
        rate if rate >= 1e3 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let name = match unit {
        Unit::Bytes(_) => "B",
        Unit::Things(_, name) => name,
    };
    format!("{:.2} {prefix}{name}/s", rate / scale)
}
