use crate::{
    labs::routed::Routed,
    peer::{Mode, Options},
    scenario::{
        Deadline, Expectation, Scenario,
        script::{Script, Seat},
    },
};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Script::<Routed> {
            views: vec![(
                Seat::Client,
                Some(Expectation {
                    deadline: Deadline::Nothing,
                    // The window is shut when the buffers are full, for which a guest takes some seconds.
                    ..Expectation::new("zero_window_stalled", "peer_window_shut").within(20.0, 60.0)
                }),
            )],
            server: Some(Options { mode: Mode::Mute, ..Options::default() }),
            // More than any buffer takes.
            act: |cast| cast.clients_say("write 20000000"),
            ..Script::new(
                "stuck-reader",
                "the peer's application does not read any more, and its host answers every probe",
            )
        }
        .scenario(),
    ]
}
