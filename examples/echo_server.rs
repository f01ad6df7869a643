//! The smallest server: answers every message with its own payload.
//!
//! With a system running (`cargo run --release -- up --policy operator`):
//! `cargo run --example echo_server`, and in another terminal `cargo run --example echo_client`.

use rendez::service::{Context, Message, Reply, Service};
use rendez::{Server, Task};

struct Echo;

impl Service for Echo {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        reply.ok(message.payload);
    }
}

fn main() -> Result<(), rendez::Error> {
    let task = Task::current()?;
    let mut server = Server::new(&task)?;
    let endpoint = task.create_endpoint()?;
    server.serve(endpoint.slot, None)?;
    let name = task.register("/echo", endpoint.slot)?;
    println!("serving {}", name.path());
    server.run(&mut Echo)
}
