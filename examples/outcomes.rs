//! Several transactions in flight on one connection, and what each is told if the server dies.
//!
//! With a system and `echo_server` running: start this, then kill the server.

use rendez::{Connection, Options, SendError, Task};
use std::time::Duration;

fn main() -> Result<(), rendez::Error> {
    let task = Task::current()?;
    let (echo, _, _) = task.look_up("/echo", None, Some(Duration::from_secs(10)))?;
    let mut connection = Connection::open(&task, echo.slot, &Options::default())?;
    for round in 0u64.. {
        let begun: Vec<u64> = (0..8u64)
            .map(|n| connection.begin(1, &(round * 8 + n).to_le_bytes(), 8))
            .collect::<Result<_, _>>()?;
        for (n, transaction) in begun.into_iter().enumerate() {
            match connection.finish(transaction) {
                Ok(reply) => assert_eq!(reply.payload, (round * 8 + n as u64).to_le_bytes()),
                Err(SendError::NotDelivered { why }) => {
                    println!("{n}: never delivered ({why}); it is safe to send it again");
                }
                Err(SendError::Interrupted { why, generation }) => {
                    println!("{n}: interrupted ({why}); incarnation {generation} had taken it");
                    return Ok(());
                }
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
