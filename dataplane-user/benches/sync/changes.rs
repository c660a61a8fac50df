//! Measures one endpoint change: among 50,000 Services, and in a Service of 20,000 endpoints.
//!
//! Each change is measured until its last map write.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane_user::proxy::controller::{self, Core};
use dataplane_user::proxy::source::{ObjectKey, ObjectKind, SliceObject, SourceEvent};

use crate::maps::Maps;
use crate::objects;
use crate::stats::{Series, ms, us};

const CHANGES: usize = 5000;
const SLICES: usize = 200;
const PER_SLICE: usize = 100;
const LARGE_CHANGES: usize = 300;

pub(crate) struct Changes {
    /// Time from the decoded event to the last map write.
    pub core: Series,
    /// The same through the channel and the controller's thread, until the snapshot shows it.
    pub through_channel: Series,
}

pub(crate) fn at_50k() -> Changes {
    Changes {
        core: Series::new("endpoint change at 50k", core()),
        through_channel: Series::new("  the same through the channel", through_channel()),
    }
}

fn core() -> Vec<f64> {
    let maps = Maps::create();
    let clock = Instant::now();
    let mut core = Core::new(maps.tables(), objects::CLOCK, clock.elapsed()).unwrap();
    core.set_node_context(objects::context());
    objects::events().into_iter().for_each(|e| core.handle(e));
    core.reconcile(clock.elapsed());
    let times = (0..CHANGES).map(|n| {
        let event = objects::change(n * 7919 % objects::SERVICES, n);
        let before = core.operations().total();
        let begin = Instant::now();
        core.handle(event);
        core.reconcile(clock.elapsed());
        let took = us(begin.elapsed());
        assert!(core.operations().total() > before);
        took
    });
    times.collect()
}

fn through_channel() -> Vec<f64> {
    let maps = Maps::create();
    let handle = controller::start(maps.tables(), objects::CLOCK).unwrap();
    let events = handle.events();
    handle.set_node_context(objects::context());
    objects::events().into_iter().for_each(|e| events.blocking_send(e).unwrap());
    let snapshots = handle.snapshots();
    let operations = || snapshots.borrow().operations.total();
    while !snapshots.borrow().synced {
        std::thread::sleep(Duration::from_millis(1));
    }
    let times = (0..CHANGES / 5).map(|n| {
        let event = objects::change(n * 7919 % objects::SERVICES, n);
        let before = operations();
        let begin = Instant::now();
        events.blocking_send(event).unwrap();
        while operations() == before {
            std::hint::spin_loop();
        }
        us(begin.elapsed())
    });
    let times = times.collect();
    drop(events);
    handle.stop();
    times
}

fn large_slice(s: usize, changed: Option<u32>) -> SliceObject {
    let address = |n: usize| Ipv4Addr::from(0x0a80_0000 + (s * PER_SLICE + n) as u32);
    let all = (0..PER_SLICE).map(|n| match changed {
        Some(new) if n == PER_SLICE / 2 => Ipv4Addr::from(0x0b00_0000 + new),
        _ => address(n),
    });
    objects::slice("large", &Arc::from("http"), all)
}

pub(crate) fn of_20k() -> Series {
    let maps = Maps::create();
    let clock = Instant::now();
    let mut core = Core::new(maps.tables(), objects::CLOCK, clock.elapsed()).unwrap();
    core.set_node_context(objects::context());
    let service = objects::service(objects::cluster_ip(0), &"http".into());
    core.handle(SourceEvent::Service(ObjectKey::new("team", "large"), Some(service)));
    let event = |s: usize, changed| {
        SourceEvent::Slice(ObjectKey::new("team", &format!("large-{s}")), Some(large_slice(s, changed)))
    };
    (0..SLICES).for_each(|s| core.handle(event(s, None)));
    ObjectKind::ALL.map(SourceEvent::InSync).into_iter().for_each(|e| core.handle(e));
    core.reconcile(clock.elapsed());
    assert_eq!(core.operations().backends as usize, SLICES * PER_SLICE);
    let mut now = clock.elapsed();
    let times = (0..LARGE_CHANGES).map(|n| {
        let event = event(n % SLICES, Some(n as u32));
        // Time passes, so that freed slots can be used again after the grace time.
        now += Duration::from_millis(500);
        let before = core.operations().total();
        let begin = Instant::now();
        core.handle(event);
        core.reconcile(now);
        let took = ms(begin.elapsed());
        assert!(core.operations().total() > before, "{:?}", core.snapshot().rejections);
        took
    });
    Series::new("endpoint change in 20k", times.collect())
}
