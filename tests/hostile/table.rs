//! The table: each code of the assistant's, what it does, and what comes of it.

use crate::attacker::Hostile;
use crate::common::Role;
use crate::stage::play;
use rendez::Why;
use std::fmt;
use std::os::fd::OwnedFd;

/// What becomes of the attacker: what the kernel records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attacker {
    /// Its task lives on, and goes with its process.
    Stays,
    /// The kernel gives it up, and kills it since it was created there.
    GivenUp,
    /// Its task ends, by its own doing; its process may go on.
    Ends,
    /// It is stopped, and its task lives on.
    Stopped,
}

/// What the victim sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// It serves, and never hears of it.
    HearsNothing,
    /// It serves, and the attacker stays connected.
    ServesOn,
    /// It serves, and shows the attacker out.
    ShowsOut,
    /// It serves, and one of both: that depends on who is faster.
    Either,
    /// It hears of the bits that the attacker may post, and of no other.
    HearsBits,
    /// It serves, and is told that the attacker has gone.
    HearsItGo,
    /// It sends to the attacker, and is told this.
    Told(Told),
}

impl fmt::Display for Attacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stays | Self::Stopped => "keeps its task until it ends",
            Self::GivenUp => "kills it",
            Self::Ends => "has its task no more",
        })
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HearsNothing => f.write_str("never hears of it"),
            Self::ServesOn => f.write_str("serves it as others"),
            Self::ShowsOut => f.write_str("ends the connection"),
            Self::Either => f.write_str("serves it, or ends the connection"),
            Self::HearsBits => f.write_str("is told of the bits that it may post"),
            Self::HearsItGo => f.write_str("is told that it has gone"),
            Self::Told(Told::Answer) => f.write_str("is answered"),
            Self::Told(Told::AnswerAtLast) => f.write_str("is answered at its deadline"),
            Self::Told(Told::NotConnected(why)) => write!(f, "not connected, *{why}*"),
            Self::Told(Told::NotDelivered(why)) => write!(f, "not delivered, *{why}*"),
            Self::Told(Told::Interrupted(why)) => write!(f, "interrupted, *{why}*"),
        }
    }
}

/// How a send ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Answer,
    /// An answer that lay there, when its deadline passes.
    AnswerAtLast,
    NotConnected(Why),
    NotDelivered(Why),
    Interrupted(Why),
}

/// What the assistant does: as a task that has greeted, or with its bare kernel socket.
#[derive(Clone, Copy)]
pub(crate) enum Deed {
    Task(fn(&mut Hostile)),
    Bare(fn(OwnedFd, &Role)),
}

/// One line of the table.
pub(crate) struct Attack {
    pub(crate) code: &'static str,
    /// The file of its deed.
    pub(crate) story: &'static str,
    pub(crate) what: &'static str,
    pub(crate) deed: Deed,
    pub(crate) attacker: Attacker,
    pub(crate) victim: Victim,
}

macro_rules! attacks {
    ($($(#[doc = $what:literal])+
        $deed:ident $module:ident::$code:ident => $attacker:ident, $victim:expr;)+) => {
        /// All of them.
        pub(crate) const ATTACKS: &[Attack] = &[$(Attack {
            code: stringify!($code),
            story: stringify!($module),
            what: concat!($($what),+),
            deed: Deed::$deed(crate::$module::$code),
            attacker: Attacker::$attacker,
            victim: $victim,
        }),+];

        mod attack {
            $(#[test]
            fn $code() {
                super::play(stringify!($code));
            })+
        }
    };
}

const PROTOCOL_UNTAKEN: Victim = Victim::Told(Told::NotDelivered(Why::Protocol));
const PROTOCOL_TAKEN: Victim = Victim::Told(Told::Interrupted(Why::Protocol));

attacks! {
    /// publishes a turn of a later lap
    Task ring::turn_of_a_later_lap => Stays, Victim::ShowsOut;
    /// publishes a turn far ahead
    Task ring::turn_far_ahead => Stays, Victim::ShowsOut;
    /// publishes a turn that jumps, after honest ones
    Task ring::turn_that_jumps => Stays, Victim::ShowsOut;
    /// publishes the turn of an earlier lap
    Task ring::turn_that_falls_back => Stays, Victim::ShowsOut;
    /// announces a payload longer than its area
    Task ring::length_beyond_the_area => Stays, Victim::ShowsOut;
    /// announces the longest payload that a header can
    Task ring::longest_length => Stays, Victim::ShowsOut;
    /// names more room for the reply than the area has
    Task ring::more_room_than_there_is => Stays, Victim::ShowsOut;
    /// says that it has freed replies that never came
    Task ring::freed_what_never_came => Stays, Victim::ShowsOut;
    /// says that it has freed all replies that can be counted
    Task ring::freed_all_that_can_be_counted => Stays, Victim::ShowsOut;
    /// frees replies and takes that back
    Task ring::freed_and_taken_back => Stays, Victim::ShowsOut;
    /// writes half a message, and rings
    Task ring::half_a_message => Stays, Victim::ServesOn;
    /// publishes a message whose payload it never wrote
    Task ring::payload_never_written => Stays, Victim::ServesOn;
    /// changes headers while they are read
    Task ring::header_rewritten_while_it_is_read => Stays, Victim::Either;
    /// writes rubbish into all words that it says of itself
    Task ring::words_about_oneself => Stays, Victim::ServesOn;
    /// withdraws all that it sends, before it is sent
    Task ring::everything_withdrawn => Stays, Victim::ServesOn;
    /// writes rubbish all over its segment
    Task ring::rubbish_all_over => Stays, Victim::Either;
    /// sends with deadlines that have passed, or never will
    Task ring::deadlines_of_every_kind => Stays, Victim::ServesOn;
    /// asks for operations that are none, with rubbish
    Task ring::operations_that_are_none => Stays, Victim::ServesOn;
    /// sends as much as fits and reads no reply, on ten connections
    Task ring::replies_not_taken => Stays, Victim::ServesOn;
    /// sends what is never answered, as much as fits
    Task ring::requests_that_are_never_answered => Stays, Victim::ServesOn;
    /// posts notifications without the right to
    Task ring::notifications_without_the_right => Stays, Victim::ServesOn;

    /// lends the part of its arena that is for release words
    Task leases::lease_of_the_release_words => Stays, Victim::ShowsOut;
    /// lends what lies beyond its arena's end
    Task leases::lease_beyond_the_end => Stays, Victim::ShowsOut;
    /// lends from an arena that it does not have
    Task leases::lease_of_no_arena => Stays, Victim::ShowsOut;
    /// lends the same twice in one message
    Task leases::leases_that_overlap => Stays, Victim::ShowsOut;
    /// lends more at a time than a message can
    Task leases::more_leases_than_there_may_be => Stays, Victim::ShowsOut;
    /// says that another lease follows, and none does
    Task leases::lease_without_end => Stays, Victim::ShowsOut;
    /// names more room for leases than the server's arena has
    Task leases::more_room_than_the_arena_has => Stays, Victim::ShowsOut;
    /// lends from an arena that it has detached
    Task leases::lease_of_a_detached_arena => Stays, Victim::ShowsOut;
    /// says that it has let go of leases that it never had
    Task leases::release_words_that_lie => Stays, Victim::ShowsOut;
    /// lets go of nothing that it is lent
    Task leases::leases_never_let_go_of => Stays, Victim::ServesOn;
    /// changes what it lends while that is read
    Task leases::lease_that_changes_while_it_is_read => Stays, Victim::ServesOn;

    /// rings a doorbell for ever, for nothing
    Task wake::doorbell_rung_for_ever => Stays, Victim::ServesOn;
    /// clears `O_NONBLOCK` of the eventfd that it rings, and fills its counter
    Task wake::doorbell_filled_and_made_to_block => Stays, Victim::ServesOn;
    /// drains the eventfd that it rings, for ever
    Task wake::doorbell_drained => Stays, Victim::ServesOn;
    /// waits on, wakes and requeues every futex that it can read
    Task wake::every_futex_that_it_can_read => Stays, Victim::ServesOn;
    /// as a server, steals the wake-up of its own client
    Task wake::wake_up_of_its_own_client_stolen => Stays, Victim::Told(Told::AnswerAtLast);
    /// as a server, replies and wakes nobody
    Task wake::a_server_that_never_wakes_its_client => Stays, Victim::Told(Told::AnswerAtLast);

    /// says that a segment is mapped that it has not sealed
    Task memory::segment_unsealed => Stays, Victim::HearsNothing;
    /// seals a segment so that the right seals cannot follow
    Task memory::segment_with_other_seals => Stays, Victim::HearsNothing;
    /// seals a segment without memory behind it
    Task memory::segment_never_populated => Stays, Victim::HearsNothing;
    /// punches a hole into a segment before it is sealed
    Task memory::segment_with_a_hole => Stays, Victim::HearsNothing;
    /// shrinks and grows a segment
    Task memory::segment_shrunk => Stays, Victim::HearsNothing;
    /// shrinks, punches, writes and opens again a segment that the victim reads
    Task memory::segment_changed_once_it_is_read => Stays, Victim::ServesOn;
    /// opens all that it has mapped once more, to write it
    Task memory::everything_mapped_opened_again => Stays, Victim::ServesOn;
    /// says twice that a segment is mapped
    Task memory::segment_said_mapped_twice => Stays, Victim::ServesOn;
    /// holds the lock of a segment for ever, in a write from a page that does not come
    Task memory::segment_whose_lock_is_held => Stays, Victim::HearsNothing;
    /// says that its page is mapped, without memory behind it
    Bare memory::page_never_populated => GivenUp, Victim::HearsNothing;
    /// fills its page with rubbish
    Bare memory::page_of_rubbish => Stays, Victim::HearsNothing;
    /// says that an arena is mapped that it has not sealed
    Task memory::arena_unsealed => Stays, Victim::ServesOn;
    /// punches a hole into an arena before it is sealed
    Task memory::arena_with_a_hole => Stays, Victim::ServesOn;
    /// says of a hundred spares that they are ready, and they are not
    Task memory::spare_unsealed => Stays, Victim::HearsNothing;
    /// fills a spare with rubbish and connects with it
    Task memory::spare_of_rubbish => Stays, Victim::ShowsOut;
    /// says that a region is ready that it has not sealed
    Task memory::region_unsealed => Stays, Victim::HearsNothing;
    /// says that a region is ready that has a hole
    Task memory::region_with_a_hole => Stays, Victim::HearsNothing;
    /// shares a region, and punches holes into it while it is read
    Task memory::region_emptied_while_it_is_read => Stays, Victim::ServesOn;
    /// begins connections that it never completes, as many as it may
    Task memory::half_made_connections_hoarded => Stays, Victim::HearsNothing;

    /// asks for all that can be asked, by slots that never were
    Task requests::forged_slots => Stays, Victim::HearsNothing;
    /// looks at each slot that there may be
    Task requests::every_slot_there_may_be => Stays, Victim::HearsNothing;
    /// uses slots that it has moved or deleted
    Task requests::stale_slots => Stays, Victim::HearsNothing;
    /// uses a capability for what its rights do not allow
    Task requests::rights_that_it_lacks => Stays, Victim::ServesOn;
    /// mints and gives more than it holds
    Task requests::more_rights_than_it_holds => Stays, Victim::HearsNothing;
    /// ends, completes and offers over connections of others
    Task requests::connections_of_others => Stays, Victim::HearsNothing;
    /// accepts tickets that it guesses
    Task requests::tickets_guessed => Stays, Victim::ServesOn;
    /// sends a ticket again that was accepted
    Task requests::ticket_replayed => Stays, Victim::ServesOn;
    /// sends a ticket over another connection than it was offered for
    Task requests::ticket_of_another_connection => Stays, Victim::ServesOn;
    /// accepts what it has offered itself
    Task requests::ticket_taken_by_who_offered_it => Stays, Victim::ServesOn;
    /// says what is to be said later, or was said already, with values that are none
    Task requests::steps_out_of_order => Stays, Victim::ServesOn;
    /// cancels what it never asked
    Task requests::cancels_of_what_never_was => Stays, Victim::HearsNothing;
    /// sends frames that are no requests
    Task requests::requests_that_are_none => Stays, Victim::HearsNothing;
    /// derives capabilities as deep as it may and by the thousand, and revokes them
    Task requests::a_tree_of_capabilities_revoked => Stays, Victim::HearsNothing;
    /// asks until nothing fits any more, and reads no answer
    Task requests::a_flood_of_requests_unread => Stays, Victim::HearsNothing;
    /// connects to itself
    Task requests::connection_to_itself => Stays, Victim::HearsNothing;

    /// has as many capabilities as it may
    Task quotas::capabilities_without_end => Stays, Victim::HearsNothing;
    /// has as many endpoints as it may
    Task quotas::endpoints_without_end => Stays, Victim::HearsNothing;
    /// creates as many tasks as it may, and starts none
    Task quotas::tasks_without_end => Stays, Victim::HearsNothing;
    /// is a task, its child, the child of that, and so on, as deep as it may
    Task quotas::tasks_of_tasks_without_end => Stays, Victim::HearsNothing;
    /// has as many regions as it may
    Task quotas::regions_without_end => Stays, Victim::HearsNothing;
    /// has regions as large as they may be
    Task quotas::bytes_of_regions_without_end => Stays, Victim::HearsNothing;
    /// has as many spares as it may, and readies none
    Task quotas::spares_without_end => Stays, Victim::HearsNothing;
    /// offers what nobody accepts, as much as it may
    Task quotas::tickets_without_end => Stays, Victim::ServesOn;
    /// watches as much as it may
    Task quotas::watches_without_end => Stays, Victim::HearsNothing;
    /// attaches as many arenas as it may, and readies none
    Task quotas::arenas_without_end => Stays, Victim::ServesOn;
    /// asks for segments as large as they may be
    Task quotas::segments_as_large_as_can_be => Stays, Victim::HearsNothing;
    /// connects as often as it may
    Task quotas::connections_without_end => Stays, Victim::ServesOn;
    /// connects to where nobody serves, as often as it may
    Task quotas::connects_that_wait_without_end => Stays, Victim::HearsNothing;

    /// sends a frame cut short
    Task door::frame_cut_short => GivenUp, Victim::HearsNothing;
    /// sends a frame of no bytes
    Task door::frame_of_nothing => Ends, Victim::HearsNothing;
    /// sends a frame longer than there are
    Task door::frame_too_long => GivenUp, Victim::HearsNothing;
    /// sends frames of another length than they say
    Task door::frame_whose_length_lies => Stays, Victim::HearsNothing;
    /// greets again
    Task door::greeting_again => Stays, Victim::HearsNothing;
    /// greets with a version that there is not
    Bare door::greeting_of_another_version => Ends, Victim::HearsNothing;
    /// asks before it has greeted
    Bare door::request_instead_of_a_greeting => Ends, Victim::HearsNothing;
    /// sends rubbish to the front door
    Task door::rubbish_at_the_front_door => Stays, Victim::HearsNothing;
    /// stands at the front door by the hundred, silent, for ever
    Task door::silent_at_the_front_door => Stays, Victim::HearsNothing;
    /// comes in through the front door a hundred times
    Task door::tasks_through_the_front_door => Stays, Victim::HearsNothing;
    /// calls itself what confuses people and terminals
    Task door::labels_to_confuse_people => Stays, Victim::HearsNothing;
    /// leaves the kernel the least room for answers that Linux allows
    Task door::answers_with_nowhere_to_go => Stays, Victim::HearsNothing;
    /// shuts its socket for answers, and asks
    Task door::deaf => Ends, Victim::HearsNothing;
    /// shuts its socket for requests
    Task door::mute => Ends, Victim::HearsNothing;
    /// sends the kernel a TCP socket whose last close takes minutes
    Task door::descriptor_that_lingers => Stays, Victim::HearsNothing;
    /// sends the kernel descriptors of every kind, its own kernel socket among them, and 253 at once
    Task door::descriptors_of_every_kind => Stays, Victim::HearsNothing;
    /// has a child speak over its kernel socket
    Task door::one_socket_for_two_processes => GivenUp, Victim::HearsNothing;

    /// as a server, publishes a reply of a turn that jumps
    Task serving::reply_of_a_turn_that_jumps => Stays, PROTOCOL_UNTAKEN;
    /// the same, once it has taken the request
    Task serving::reply_of_a_turn_that_jumps_once_taken => Stays, PROTOCOL_TAKEN;
    /// as a server, replies to what was never sent
    Task serving::reply_to_nothing => Stays, PROTOCOL_UNTAKEN;
    /// as a server, replies to what is to come
    Task serving::reply_to_what_is_to_come => Stays, PROTOCOL_UNTAKEN;
    /// as a server, replies to the last transaction that there can be
    Task serving::reply_to_everything => Stays, PROTOCOL_UNTAKEN;
    /// as a server, announces a reply longer than its area
    Task serving::reply_longer_than_the_area => Stays, PROTOCOL_TAKEN;
    /// as a server, replies twice
    Task serving::two_replies_to_one_request => Stays, Victim::Told(Told::Answer);
    /// as a server, takes nothing
    Task serving::request_never_taken => Stays, Victim::Told(Told::NotDelivered(Why::Deadline));
    /// as a server, takes and never answers
    Task serving::reply_held_for_ever => Stays, Victim::Told(Told::Interrupted(Why::Deadline));
    /// as a server, takes, says that it has not, and ends the connection
    Task serving::taken_and_taken_back => Stays, Victim::Told(Told::NotDelivered(Why::Closed));
    /// as a server, says that it has taken what never came, and ends the connection
    Task serving::taken_what_never_came => Stays, Victim::Told(Told::Interrupted(Why::Closed));
    /// as a server, answers what it says it has not taken
    Task serving::taken_by_a_reply_alone => Stays, Victim::Told(Told::Answer);
    /// as a server, leaves a client in the middle of connecting
    Task serving::client_never_taken_in => Stays, Victim::Told(Told::NotConnected(Why::Deadline));
    /// as a server, refuses a client
    Task serving::client_refused => Stays, Victim::Told(Told::NotConnected(Why::Denied));
    /// as a server, seals a segment without memory behind it
    Task serving::server_with_a_hole => Stays, Victim::Told(Told::NotConnected(Why::Protocol));
    /// as a server, says that a segment is mapped that it has not sealed
    Task serving::server_that_does_not_seal => Stays, Victim::Told(Told::NotConnected(Why::Protocol));

    /// dies before it greets
    Bare life::dies_before_it_greets => Ends, Victim::HearsNothing;
    /// dies when it has greeted
    Bare life::dies_before_it_is_welcome => Ends, Victim::HearsNothing;
    /// dies while it connects
    Task life::dies_while_it_connects => Ends, Victim::HearsNothing;
    /// dies when it has mapped its segment
    Task life::dies_once_it_is_mapped => Ends, Victim::Either;
    /// dies with half a message written
    Task life::dies_in_the_middle_of_a_message => Ends, Victim::HearsItGo;
    /// dies with a message on its way
    Task life::dies_with_a_message_on_its_way => Ends, Victim::HearsItGo;
    /// dies while it is owed answers
    Task life::dies_with_its_answer_owed => Ends, Victim::HearsItGo;
    /// dies while it attaches arenas
    Task life::dies_while_it_attaches => Ends, Victim::HearsItGo;
    /// dies with capabilities offered
    Task life::dies_with_an_offer_on_its_way => Ends, Victim::HearsItGo;
    /// as a server, dies when it is told of a client
    Task life::dies_as_a_server_told_of_a_client => Ends, Victim::Told(Told::NotConnected(Why::Dead));
    /// as a server, dies before it takes
    Task life::dies_as_a_server_before_it_takes => Ends, Victim::Told(Told::NotDelivered(Why::Dead));
    /// as a server, dies when it has taken
    Task life::dies_as_a_server_once_it_has_taken => Ends, Victim::Told(Told::Interrupted(Why::Dead));
    /// as a server, dies when it has replied, before it rings
    Task life::dies_as_a_server_once_it_has_replied => Ends, Victim::Told(Told::Answer);
    /// execs another program
    Task life::execs => Ends, Victim::HearsItGo;
    /// leaves its kernel socket open to a child, and dies
    Task life::leaves_its_socket_to_a_child => Ends, Victim::HearsItGo;
    /// forks without the library, leaves its socket to the child, and execs
    Task life::forks_and_execs => Stays, Victim::ServesOn;
    /// forks, and dies
    Task life::forks_and_dies => Ends, Victim::HearsItGo;
    /// closes its kernel socket and goes on writing into its ring
    Task life::leaves_and_goes_on_writing => Ends, Victim::HearsItGo;
    /// stands still while it connects
    Task life::stops_while_it_connects => Stopped, Victim::ServesOn;
    /// stands still in the middle of a message
    Task life::stops_in_the_middle_of_a_message => Stopped, Victim::ServesOn;
    /// stands still before it greets
    Bare life::stops_before_it_greets => Stopped, Victim::HearsNothing;
    /// as a server, stands still when it is told of a client
    Task life::stops_as_a_server_told_of_a_client => Stopped, Victim::Told(Told::NotConnected(Why::Deadline));
    /// comes through the front door a thousand times, and goes at once
    Task life::a_thousand_short_lives => Stays, Victim::HearsNothing;

    /// posts bits that its capability does not allow
    Task posting::bits_outside_its_mask => Stays, Victim::HearsBits;
    /// posts for ever, and rings each time
    Task posting::bits_for_ever => Stays, Victim::HearsBits;
    /// sends a message where only bits are carried
    Task posting::a_message_to_a_notification => Stays, Victim::HearsNothing;
    /// mints more bits than it has, and posts without the right to
    Task posting::a_wider_mask => Stays, Victim::HearsNothing;
    /// has as many notifications as it may
    Task posting::notifications_without_end => Stays, Victim::HearsNothing;
    /// stands at a notification that nobody receives from, as often as it may
    Task posting::standing_without_end => Stays, Victim::HearsNothing;
    /// posts, and dies
    Task posting::dies_with_bits_posted => Ends, Victim::HearsBits;
    /// posts where nobody receives, and dies
    Task posting::dies_while_it_stands => Ends, Victim::HearsNothing;

    /// asks where capabilities came from without the right to
    Task authority::where_others_came_from => Stays, Victim::HearsNothing;
    /// puts faults into others, and says that some have struck
    Task authority::faults_in_others => Stays, Victim::HearsNothing;
    /// looks at what others hold, use and wait for
    Task authority::what_others_hold => Stays, Victim::HearsNothing;
    /// asks again and again whether it waits in a circle, which it does not
    Task authority::circles_that_are_none => Stays, Victim::ServesOn;
    /// stops others from receiving, and says for how long they are waited for
    Task authority::receivers_of_others => Stays, Victim::HearsNothing;
    /// connects while the capability for it is revoked, again and again
    Task authority::connects_and_revokes_at_once => Stays, Victim::Either;
    /// offers a capability and revokes it before it is accepted
    Task authority::offer_revoked_before_it_is_accepted => Stays, Victim::ServesOn;
    /// revokes without end, and reads no answer
    Task authority::revocations_without_end => Stays, Victim::HearsNothing;
    /// dies while its revocation is under way
    Task authority::dies_while_it_revokes => Ends, Victim::HearsNothing;
    /// has connects wait for longer and in larger numbers than can be counted
    Task authority::a_hold_without_end => Stays, Victim::HearsNothing;
}
