//! Tests of what takes how long, on a machine that stands still now and then.

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use tokio::runtime;

/// Between two looks at the clock.
const BEAT: Duration = Duration::from_millis(10);

/// A beat that is late by more than this is held up: this process is, or the machine and all its processes.
const LATE: Duration = Duration::from_millis(10);

/// Held up for so long in all, a test may see what nobody would see on a machine of its own.
const STALL: Duration = Duration::from_millis(200);

/// How often a test is run at most.
const TIMES: usize = 10;

/// Runs a test whose times are the machine's as well. One that fails, and was held up meanwhile, says nothing:
/// it is run again from its beginning. One that fails undisturbed has failed.
pub fn timed(test: impl AsyncFn() + Sync) {
    repeat(|| run(&test));
}

fn repeat(mut run: impl FnMut() -> Result<(), Failed>) {
    for nth in 1.. {
        let Err(failed) = run() else { return };
        let held_up = failed.held_up;
        if held_up < STALL || nth == TIMES {
            resume_unwind(failed.panic);
        }
        println!("it was held up for {held_up:?}: it is run again");
    }
}

struct Failed {
    panic: Box<dyn Any + Send>,
    held_up: Duration,
}

/// In a thread of its own, whose panic ends nothing else.
fn run(test: &(impl AsyncFn() + Sync)) -> Result<(), Failed> {
    let over = AtomicBool::new(false);
    let name = thread::current().name().unwrap_or_default().to_owned();
    thread::scope(|scope| {
        let heart = scope.spawn(|| held_up(&over));
        let test = || {
            let runtime = runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(test());
        };
        let thread = Builder::new().name(name).spawn_scoped(scope, test);
        let result = thread.expect("a thread").join();
        over.store(true, Ordering::Relaxed);
        let held_up = heart.join().expect("it ends");
        result.map_err(|panic| Failed { panic, held_up })
    })
}

fn held_up(over: &AtomicBool) -> Duration {
    let mut held_up = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let before = Instant::now();
        thread::sleep(BEAT);
        let late = before.elapsed().saturating_sub(BEAT);
        if late > LATE {
            held_up += late;
        }
    }
    held_up
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// How often a test is run whose runs are held up for so long, and fail if so; and whether it has failed.
    fn runs(each: &[(Duration, bool)]) -> (usize, bool) {
        let mut runs = 0;
        let mut each = each.iter().cycle();
        let run = || {
            runs += 1;
            let (held_up, fails) = *each.next().expect("it goes round");
            let panic = Box::new("a failure");
            match fails {
                true => Err(Failed { panic, held_up }),
                false => Ok(()),
            }
        };
        let failed = catch_unwind(AssertUnwindSafe(|| repeat(run))).is_err();
        (runs, failed)
    }

    #[test]
    fn only_what_was_held_up_is_run_again() {
        let (calm, long) = (STALL / 2, 2 * STALL);
        assert_eq!(runs(&[(calm, false)]), (1, false));
        assert_eq!(runs(&[(long, false)]), (1, false));
        assert_eq!(runs(&[(calm, true)]), (1, true));
        assert_eq!(runs(&[(long, true), (calm, false)]), (2, false));
        assert_eq!(runs(&[(long, true), (calm, true)]), (2, true));
        assert_eq!(runs(&[(long, true)]), (TIMES, true));
    }

    #[test]
    fn a_panic_and_its_message_come_through() {
        timed(async || {});
        let failed = run(&async || panic!("of the test"));
        let failed = failed.map_err(|failed| failed.panic.downcast_ref() == Some(&"of the test"));
        assert_eq!(failed, Err(true));
    }
}
