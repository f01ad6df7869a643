//! Sequences that once failed, as they were printed, and that are tests since.

use super::runs::fails;
use super::steps::parse;

/// Takes the steps of a script: both machines say the same at each.
fn replay(script: &str) {
    if let Some((at, how)) = fails(&parse(script), |_, _, _| ()) {
        panic!("step {at}: {how}");
    }
}

/// A task dies that has offered the last capability to receive from what it waits for itself: what it
/// offered goes first, and with it what waits for that.
#[test]
fn what_the_dead_have_offered_goes_before_the_connection_that_it_was_for() {
    replay(
        r#"
(step:1,who:0,does:First)
(step:3,who:1,does:Greet)
(step:10,who:1,does:CreateEndpoint)
(step:32,who:1,does:CreateTask([((10,0),("SEND | MINT | GRANT",None,None,None))]))
(step:38,who:1,does:Serve((10,0),None))
(step:49,who:32,does:Greet)
(step:69,who:32,does:Connect(slot:(49,1),speaks:None,lines:32,doorbell:Futex))
(step:71,who:32,does:Mapped(69,Event))
(step:78,who:0,does:Sealed(69,Client,true))
(step:79,who:32,does:CreateNotification)
(step:81,who:1,does:Mapped(69,Futex))
(step:83,who:0,does:Sealed(69,Server,true))
(step:84,who:32,does:Connect(slot:(79,0),speaks:None,lines:1,doorbell:Futex)) // it stands
(step:86,who:32,does:Mapped(84,Event))
(step:87,who:0,does:Sealed(84,Client,true))
(step:102,who:32,does:Offer(69,[((79,0),("RECEIVE | POST | MINT | GRANT | WATCH | INSPECT",None,None,None),Move)]))
(step:126,who:32,does:Die)
(step:153,who:1,does:Connect(slot:(10,0),speaks:None,lines:32,doorbell:Event))
"#,
    );
}

/// A revocation around one whose servers have not acknowledged waits for them too.
#[test]
fn a_revocation_waits_for_what_is_within_it() {
    replay(
        r#"
(step:1,who:0,does:First)
(step:2,who:1,does:Greet)
(step:4,who:1,does:CreateEndpoint)
(step:8,who:1,does:Serve((4,0),None))
(step:32,who:1,does:CreateTask([((4,0),("SEND | MINT | GRANT",Some(2),None,None))]))
(step:33,who:32,does:Greet)
(step:59,who:32,does:Mint((33,1),("SEND | MINT | GRANT",None,None,None)))
(step:89,who:32,does:Connect(slot:(59,0),speaks:None,lines:32,doorbell:Event))
(step:90,who:32,does:Mapped(89,Futex))
(step:91,who:0,does:Sealed(89,Client,true))
(step:97,who:1,does:Mapped(89,Futex))
(step:105,who:0,does:Sealed(89,Server,true))
(step:142,who:32,does:Revoke((33,1)))
(step:144,who:1,does:Revoke((4,0)))
(step:145,who:1,does:Disconnect(89,Closed))
"#,
    );
}
