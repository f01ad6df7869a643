# The one interface that capnp-rpc is measured with. `answer_capnp.rs` beside this file is generated
# from it; docs/reference/peers.md says how.
@0xb1c6f5a4d7e39a21;

using Rust = import "/rust.capnp";
$Rust.parentModule("peers");

interface Answer {
  answer @0 (payload :Data) -> (payload :Data);
}
