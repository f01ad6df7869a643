//! Notifications: two tasks post, one receives from both of them and from a second notification.
//!
//! With a system running (`cargo run --release -- up`): `cargo run --example notification`. The posters
//! are tasks of their own in this same process; in earnest they would be processes.

use rendez::protocol::kernel::{Give, Limits, Received};
use rendez::{Error, NotificationSet, Poster, Rights, Task};
use std::time::Duration;

const PAPER_IS_OUT: u64 = 1 << 0;
const DOOR_IS_OPEN: u64 = 1 << 1;

/// A task that may post these bits to a notification, and is known by a badge.
fn printer(parent: &Task, door: Received, badge: u64, bits: u64) -> Result<Poster, Error> {
    let give = Give {
        name: "door".into(),
        slot: door.slot,
        rights: Rights::POST,
        badge: Some(badge),
        limits: Limits { bits: Some(bits), ..Limits::SAME },
    };
    let (_capability, _id, socket) = parent.create_task("printer", vec![give])?;
    let task = Task::over(socket)?;
    Poster::new(&task, task.given_as("door")?.slot)
}

fn main() -> Result<(), Error> {
    let task = Task::current()?;
    let (trouble, stop) = (task.create_notification()?, task.create_notification()?);
    let mut large = printer(&task, trouble, 1, PAPER_IS_OUT | DOOR_IS_OPEN)?;
    let mut small = printer(&task, trouble, 2, PAPER_IS_OUT)?;

    // Nobody receives yet. The bits wait, and coalesce.
    large.post(PAPER_IS_OUT)?;
    large.post(PAPER_IS_OUT | DOOR_IS_OPEN)?;
    small.post(PAPER_IS_OUT)?;
    println!("the small printer has no door: {}", small.post(DOOR_IS_OPEN).unwrap_err());

    let stopping = std::thread::spawn({
        let mut stop = Poster::new(&task, stop.slot)?;
        move || {
            std::thread::sleep(Duration::from_millis(200));
            stop.post(1)
        }
    });

    let mut notifications = NotificationSet::new(&task)?;
    notifications.add(trouble.slot)?;
    notifications.add(stop.slot)?;
    loop {
        match notifications.wait(Duration::from_millis(50))? {
            Some(posted) if posted.notification == stop.object => break,
            Some(posted) => println!("printer {} posted {:#04b}", posted.badge, posted.bits),
            None => println!("nothing for 50 ms"),
        }
    }
    stopping.join().expect("the thread posts")
}
