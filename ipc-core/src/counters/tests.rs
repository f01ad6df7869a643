use super::{
    AFTER_SLEEP, BUCKETS, CONNECTIONS_OFFSET, ClientCounters, HEAD_BYTES, Histogram, Identity,
    PageFile, RECORD_BYTES, RECORDS_MAX, SAMPLE_MEAN, SLOW_NS, Sampler, Side, THREADS_MAX,
    ThreadCounters, bucket, bucket_start, quantile, server_counters, total,
};
use crate::platform::Host;
use crate::status::{PAGE_BYTES, PageWriter, memory_file};
use crate::waits::Waiting;
use rendez_protocol::{ConnectionId, TaskId};
use std::os::fd::OwnedFd;
use std::sync::Arc;

fn page() -> (Arc<PageWriter>, PageFile, OwnedFd) {
    let file = memory_file("test", PAGE_BYTES).unwrap();
    let writer = Arc::new(PageWriter::map(file.try_clone().unwrap()).unwrap());
    (writer, PageFile::new(file.try_clone().unwrap()).unwrap(), file)
}

fn whose(index: u32, side: Side) -> Identity {
    Identity {
        connection: ConnectionId { index, generation: 7 },
        peer: TaskId { index: 3, generation: 1 },
        side,
        status_index: index,
    }
}

fn read(file: &PageFile) -> Vec<super::ConnectionCounts> {
    let mut all = Vec::new();
    let records = file.head().unwrap().records;
    file.connections(records, |counts| all.push(counts)).unwrap();
    all
}

#[test]
fn each_time_is_in_the_bucket_that_begins_at_or_below_it() {
    assert_eq!(bucket_start(0), 0);
    for place in 1..BUCKETS {
        let start = bucket_start(place);
        assert!(start > bucket_start(place - 1));
        assert_eq!(bucket(start), place, "{start} ns");
        assert_eq!(bucket(start - 1), place - 1, "{start} ns less one");
    }
    assert_eq!(bucket_start(1), 64);
    assert_eq!(bucket_start(2), 96);
    assert_eq!(bucket_start(29), 1 << 20);
    assert_eq!(bucket_start(30), 1 << 21);
    assert_eq!(bucket_start(BUCKETS - 1), 1 << 30);
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
}

#[test]
fn quantiles_of_a_histogram() {
    let mut times: Histogram = [0; BUCKETS];
    assert_eq!(quantile(&times, 0.5), None);
    times[bucket(100)] = 98;
    times[bucket(5_000)] = 2;
    let p50 = quantile(&times, 0.5).unwrap();
    assert!((96.0..128.0).contains(&p50), "{p50}");
    let p99 = quantile(&times, 0.99).unwrap();
    assert!((4096.0..6144.0).contains(&p99), "{p99}");
    assert_eq!(quantile(&times, 1.0), Some(6144.0));
    // What has no upper bound is said to be its lower one.
    times[BUCKETS - 1] = 1_000_000;
    assert_eq!(quantile(&times, 0.9), Some((1u64 << 30) as f64));
    // What a liar makes of it.
    let rubbish = [u64::MAX; BUCKETS];
    assert_eq!(total(&rubbish), u64::MAX);
    for part in [-1.0, 0.0, 0.5, 1.0, 2.0] {
        assert!(quantile(&rubbish, part).is_some_and(|ns| ns <= (1u64 << 30) as f64));
    }
}

#[test]
fn fast_transactions_are_sampled_and_slow_ones_are_all_timed() {
    let mut sampler = Sampler::new();
    let (mut now, mut timed, mut distances) = (1, 0, std::collections::HashSet::new());
    for _ in 0..64_000 {
        now += 300;
        if sampler.is_due() {
            timed += 1;
            sampler.drawn(now);
            distances.insert(sampler.distance);
        }
    }
    let mean = 64_000 / timed;
    assert!((SAMPLE_MEAN - 8..=SAMPLE_MEAN + 8).contains(&mean), "one in {mean}");
    assert!(distances.len() > 30, "drawn by lot: {distances:?}");
    // The first slow ones may pass; then none does.
    let mut missed = 0;
    for _ in 0..1000 {
        now += SLOW_NS;
        if sampler.is_due() { sampler.drawn(now) } else { missed += 1 }
    }
    assert!(missed < 2 * SAMPLE_MEAN, "{missed}");
    // After a sleep one of the next few is timed, however often it sleeps.
    sampler.drawn(now + 1);
    let due = (1..).find(|_| {
        sampler.soon();
        sampler.is_due()
    });
    assert_eq!(due, Some(AFTER_SLEEP));
}

#[test]
fn what_a_client_counts_is_read() {
    let (writer, file, _) = page();
    assert!(read(&file).is_empty());
    let mut counters = ClientCounters::new(&writer, whose(5, Side::Client));
    for transaction in 0..1000 {
        counters.sent::<Host>(transaction, 8);
        counters.answered::<Host>(transaction, 40, 9);
    }
    counters.late();
    counters.waits_for_room();
    counters.looked();
    counters.slept(77);
    let all = read(&file);
    let [counts] = &all[..] else { panic!("{all:?}") };
    assert_eq!(counts.whose, whose(5, Side::Client));
    assert_eq!((counts.requests, counts.request_bytes), (1000, 8_000));
    assert_eq!((counts.replies, counts.reply_bytes), (1000, 40_000));
    assert_eq!((counts.late, counts.room_waits, counts.looks), (1, 1, 1));
    assert_eq!((counts.sleeps, counts.rings), (1, 9));
    assert!(counts.wake_ns > 0 && counts.budget_ns == 77 && counts.since_ns > 0);
    assert!((1..=1000).contains(&total(&counts.histogram)), "{:?}", counts.histogram);
    assert_eq!(file.head().unwrap().wake_ns, counts.wake_ns);
    drop(counters);
    assert!(read(&file).is_empty());
}

#[test]
fn both_halves_of_a_server_count_in_one_record() {
    let (writer, file, _) = page();
    let (mut requests, replies) = server_counters(&writer, whose(6, Side::Server));
    let started = requests.taken::<Host>(16);
    assert_ne!(started, 0, "the first is timed");
    replies.replied::<Host>(24, started, 3);
    for _ in 0..3 {
        requests.waits_for_room(1);
    }
    requests.slept();
    drop(requests);
    let all = read(&file);
    let [counts] = &all[..] else { panic!("a reply right keeps the record: {all:?}") };
    assert_eq!((counts.requests, counts.request_bytes), (1, 16));
    assert_eq!((counts.replies, counts.reply_bytes, counts.rings), (1, 24, 3));
    assert_eq!((counts.room_waits, counts.sleeps), (1, 1), "once for each message");
    assert_eq!(total(&counts.histogram), 1);
    drop(replies);
    assert!(read(&file).is_empty());
}

#[test]
fn records_are_used_again_the_lowest_first_and_begin_at_zero() {
    let (writer, file, descriptor) = page();
    let client = |index| ClientCounters::new(&writer, whose(index, Side::Client));
    let mut many: Vec<_> = (1..=20).map(client).collect();
    many.iter_mut().for_each(|counters| counters.sent::<Host>(0, 1));
    let before = rustix::fs::fstat(&descriptor).unwrap().st_blocks;
    let first = read(&file)[2].key;
    drop(many.drain(2..5));
    let again = client(99);
    let all = read(&file);
    assert_eq!(all.len(), 18);
    assert_eq!(all[2].whose, whose(99, Side::Client));
    assert_eq!((all[2].requests, total(&all[2].histogram)), (0, 0));
    assert_ne!(all[2].key, first, "another user, another key");
    assert_eq!(rustix::fs::fstat(&descriptor).unwrap().st_blocks, before);
    drop((many, again));
}

#[test]
fn a_page_takes_memory_where_it_is_used() {
    let (writer, _file, descriptor) = page();
    let pages = || rustix::fs::fstat(&descriptor).unwrap().st_blocks * 512 / 4096;
    assert_eq!(pages(), 1, "the head");
    let per_page = 4096 / RECORD_BYTES as u32;
    let held: Vec<_> = (0..2 * per_page)
        .map(|index| ClientCounters::new(&writer, whose(index, Side::Client)))
        .collect();
    assert_eq!(pages(), 3);
    drop(held);
    // Reading does not fill holes.
    let file = PageFile::new(descriptor.try_clone().unwrap()).unwrap();
    file.connections(RECORDS_MAX, |_| panic!("nothing is there")).unwrap();
    assert_eq!(pages(), 3);
}

#[test]
fn a_page_that_is_full_counts_nothing_more_and_says_nothing_wrong() {
    let (writer, file, _) = page();
    let all: Vec<_> = (0..RECORDS_MAX as u32 + 1)
        .map(|index| ClientCounters::new(&writer, whose(index % 16_384, Side::Client)))
        .collect();
    assert_eq!(file.head().unwrap().records, RECORDS_MAX);
    assert_eq!(read(&file).len(), RECORDS_MAX);
    assert!(all[RECORDS_MAX].record.is_none());
    let threads: Vec<_> = (0..THREADS_MAX + 1).map(|_| ThreadCounters::new(&writer)).collect();
    assert_eq!(file.head().unwrap().threads.len(), THREADS_MAX);
    drop(threads);
    assert!(file.head().unwrap().threads.is_empty());
}

#[test]
fn nothing_is_counted_for_those_who_do_not_want_it() {
    let (writer, file, _) = page();
    writer.set_counting(false);
    let mut counters = ClientCounters::new(&writer, whose(5, Side::Client));
    counters.sent::<Host>(0, 8);
    counters.answered::<Host>(0, 8, 0);
    let (mut requests, replies) = server_counters(&writer, whose(6, Side::Server));
    replies.replied::<Host>(1, requests.taken::<Host>(1), 0);
    assert!(read(&file).is_empty());
}

#[test]
fn threads_say_how_they_wait() {
    let (writer, file, _) = page();
    let counters = ThreadCounters::new(&writer);
    counters.looked(2, 10);
    counters.sleeps(11, 78);
    let head = file.head().unwrap();
    let [thread] = &head.threads[..] else { panic!("{head:?}") };
    let own = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
    assert_eq!((thread.thread, thread.looks, thread.sleeps), (own, 1, 1));
    assert_eq!((thread.polled, thread.connections, thread.budget_ns), (0, 11, 78));
    assert!(head.wake_ns > 0 && head.receivers == 1);
}

#[test]
fn waits_are_read_with_the_rest() {
    let (writer, file, _) = page();
    let waiting = Waiting { transaction: Some(3), since_ns: 1, deadline_ns: u64::MAX, taken: true };
    let waiting = writer.waiting(17, &waiting);
    let waits = file.head().unwrap().waits;
    assert_eq!(waits.len(), 1);
    assert_eq!((waits[0].status_index, waits[0].transaction), (17, Some(3)));
    assert!(waits[0].taken && waits[0].deadline_ns == 0);
    drop(waiting);
    assert!(file.head().unwrap().waits.is_empty());
}

/// A page of random bytes, and one of all ones: whatever is read of them is bounded and sane enough
/// to be computed with.
#[test]
fn rubbish_is_read_without_harm() {
    let mut lot = 1u64;
    let random = (0..PAGE_BYTES / 8).flat_map(|_| {
        lot = lot.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (lot ^ lot >> 33).to_le_bytes()
    });
    for bytes in [random.collect::<Vec<_>>(), vec![0xff; PAGE_BYTES]] {
        let file = memory_file("test", PAGE_BYTES).unwrap();
        assert_eq!(rustix::io::write(&file, &bytes), Ok(PAGE_BYTES));
        let writer = PageWriter::map(file.try_clone().unwrap()).unwrap();
        let file = PageFile::new(file).unwrap();
        let head = file.head().unwrap();
        assert!(head.records <= RECORDS_MAX && head.threads.len() <= THREADS_MAX);
        let mut seen = 0;
        file.connections(usize::MAX, |counts| {
            seen += 1;
            let _ = quantile(&counts.histogram, 0.99);
        })
        .unwrap();
        assert!(seen <= RECORDS_MAX);
        drop(writer);
    }
}

/// A record that looks right, written by hand: the sides are told apart, others are refused.
#[test]
fn a_record_of_neither_side_is_left_out() {
    let file = memory_file("test", PAGE_BYTES).unwrap();
    for (place, side) in [1u64, 2, 0, 3, 1 | 0xffff_ffff << 32].into_iter().enumerate() {
        let offset = (CONNECTIONS_OFFSET + place * RECORD_BYTES) as u64;
        rustix::io::pwrite(&file, &1u64.to_le_bytes(), offset).unwrap();
        rustix::io::pwrite(&file, &side.to_le_bytes(), offset + 24).unwrap();
    }
    let writer = PageWriter::map(file.try_clone().unwrap()).unwrap();
    let mut sides = Vec::new();
    PageFile::new(file).unwrap().connections(8, |counts| sides.push(counts.whose.side)).unwrap();
    assert_eq!(sides, [Side::Client, Side::Server]);
    drop(writer);
}

#[test]
fn a_file_that_is_no_page_is_refused() {
    assert!(PageFile::new(memory_file("test", PAGE_BYTES).unwrap()).is_err(), "not sealed");
    let small = memory_file("test", HEAD_BYTES).unwrap();
    rustix::fs::fcntl_add_seals(&small, crate::status::SEALS).unwrap();
    assert!(PageFile::new(small).is_err(), "too small");
}

/// One thread uses a record again and again while another reads it: no row mixes two users.
#[test]
fn a_reader_sees_one_user_of_a_record_at_a_time() {
    const USERS: u32 = 20_000;
    let (writer, file, _) = page();
    let user = std::thread::spawn(move || {
        for index in 1..=USERS {
            let mut counters = ClientCounters::new(&writer, whose(index % 16_000, Side::Client));
            let bytes = 1 + index as usize % 16_000;
            for transaction in 0..u64::from(index % 4) {
                counters.sent::<Host>(transaction, bytes);
            }
        }
    });
    let mut last = 0;
    loop {
        let over = user.is_finished();
        for counts in read(&file) {
            assert!(counts.key >= last, "{} after {last}", counts.key);
            last = counts.key;
            let each = u64::from(counts.whose.connection.index) + 1;
            assert!(counts.requests < 4, "{counts:?}");
            assert_eq!(counts.request_bytes % each, 0, "{counts:?}");
            assert_eq!(counts.whose.status_index, counts.whose.connection.index);
        }
        if over {
            break;
        }
    }
    user.join().unwrap();
}

/// One thread counts while another reads: each word only grows, and in the end all is there.
#[test]
fn counts_only_grow() {
    const SENDS: u64 = 200_000;
    let (writer, file, _) = page();
    let mut counters = ClientCounters::new(&writer, whose(1, Side::Client));
    let user = std::thread::spawn(move || {
        for transaction in 0..SENDS {
            counters.sent::<Host>(transaction, 3);
            counters.answered::<Host>(transaction, 5, transaction);
        }
        counters
    });
    let mut last = [0; 4];
    loop {
        let over = user.is_finished();
        let [counts] = &read(&file)[..] else { panic!("it is there all the time") };
        let words = [counts.requests, counts.request_bytes, counts.reply_bytes, counts.rings];
        assert!(last.iter().zip(&words).all(|(last, now)| last <= now), "{words:?} after {last:?}");
        last = words;
        if over {
            break;
        }
    }
    assert_eq!(last, [SENDS, 3 * SENDS, 5 * SENDS, SENDS - 1]);
    drop(user.join().unwrap());
}
