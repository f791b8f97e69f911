//! A load balancer in front of two pods with this filter.

use std::time::Duration;

use e2e::rehearsal::{Answers, Course, Event, play};
use e2e::timed;

/// How long after a change calls may still meet what it leaves behind.
const SETTLED: Duration = Duration::from_secs(2);

/// The balancer took the right pod out and back in, and the other one stayed.
fn check_pool(course: &Course, event: Event) {
    assert!(
        course.out_after.is_some(),
        "{event:?}: the pod was not taken out"
    );
    assert!(
        course.in_after.is_some(),
        "{event:?}: the pod was not taken back in"
    );
    assert!(
        course.pool.iter().all(|(_, pods)| pods[1]),
        "{event:?}: the other pod was taken out"
    );
    let last = course.pool.last().map(|(_, pods)| *pods);
    assert_eq!(last, Some([true, true]), "{event:?}");
    // Calls go on: well before the event, and well after the recovery, all succeed.
    let settled = course.marks[1] + course.in_after.unwrap_or_default() + SETTLED;
    for (time, good) in &course.calls {
        assert!(
            *good || (*time >= course.marks[0] && *time <= settled),
            "{event:?}: {time:?}"
        );
    }
    println!(
        "{event:?}: out after {:?}, in after {:?}, {} of {} calls failed",
        course.out_after,
        course.in_after,
        course.failed(),
        course.calls.len()
    );
}

/// Plays it with this way of answering; a drain costs no call.
fn rehearse(answers: Answers, event: Event) {
    timed(async || {
        let course = play(answers, event).await;
        check_pool(&course, event);
        if event == Event::Drain {
            assert_eq!(course.failed(), 0);
        }
    });
}

#[test]
fn a_killed_backend_is_taken_out_and_back_in() {
    rehearse(Answers::Filter, Event::Kill);
}

#[test]
fn a_hung_backend_is_taken_out_and_back_in() {
    rehearse(Answers::Filter, Event::Hang);
}

#[test]
fn a_drained_pod_costs_no_call() {
    rehearse(Answers::Filter, Event::Drain);
}

/// The balancer checks by Envoy's own `grpc_health_check`.
#[test]
fn a_killed_backend_is_taken_out_and_back_in_by_grpc() {
    rehearse(Answers::Grpc, Event::Kill);
}

#[test]
fn a_drained_pod_costs_no_call_by_grpc() {
    rehearse(Answers::Grpc, Event::Drain);
}
