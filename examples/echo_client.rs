//! The smallest client: sends what is on its command line to the server registered as `/echo`.
//!
//! See `echo_server.rs` for how to run it.

use rendez::{Client, Task};

fn main() -> Result<(), rendez::Error> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let text = if words.is_empty() { "hello".to_owned() } else { words.join(" ") };
    let task = Task::current()?;
    let echo = Client::look_up(&task, "/echo", None)?;
    let reply = echo.send(1, text.as_bytes(), text.len())?;
    println!("{}", String::from_utf8_lossy(&reply));
    Ok(())
}
