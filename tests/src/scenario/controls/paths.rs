//! Paths that differ, and firewalls that forget, where nobody suffers.

use std::{net::SocketAddrV4, thread::sleep, time::Duration};

use crate::{
    labs::{asymmetric::Asymmetric, routed::Routed},
    peer::Options,
    require::Requirement::Conntrack,
    scenario::{
        Scenario,
        script::{Script, Seat},
    },
    stray::Stray,
};

pub(super) fn all() -> Vec<Scenario> {
    /// Each second each end says something.
    const TALKING: Options = Options { write_every: Some(Duration::from_secs(1)), write_bytes: 10, ..Options::NONE };
    vec![
        Script::<Asymmetric> {
            needs: &[Conntrack],
            is_shared: false,
            prepare: Asymmetric::track,
            server: Some(TALKING),
            client: || Ok(TALKING),
            act: |cast| {
                let client = cast.connect_silently()?;
                sleep(Duration::from_secs(8));
                client.command("close")?;
                sleep(Duration::from_secs(1));
                Ok(())
            },
            ..Script::control(
                "two-paths",
                "a connection over two paths, of which a router in the middle sees one side and drops nothing",
                &[Seat::Client, Seat::Middle, Seat::Server],
            )
        }
        .scenario(),
        Script::<Routed> {
            needs: &[Conntrack],
            is_shared: false,
            prepare: |lab| lab.firewall(&lab.router, &["forward"]),
            act: |cast| {
                const TIMES: usize = 6;
                let client = cast.connect_silently()?;
                client.command("write 100")?;
                sleep(Routed::FIREWALL_REMEMBERS + Duration::from_secs(1));
                // Of this connection it knows nothing any more.
                client.command("write 100")?;
                cast.server_says("write 100")?;
                let (here, there) =
                    (SocketAddrV4::new([10, 77, 2, 1].into(), 80), SocketAddrV4::new([10, 77, 1, 1].into(), 40_000));
                for _ in 0..TIMES {
                    for stray in [Stray::SynAck, Stray::Ack] {
                        cast.lab.server.send_stray(here, there, stray)?;
                    }
                    sleep(Duration::from_millis(500));
                }
                // Its end would be dropped, too, and that is told.
                cast.keep(client);
                Ok(())
            },
            ..Script::control(
                "strays",
                "a router that drops strays, backscatter, and data of a connection that it has forgotten",
                &[Seat::Middle],
            )
        }
        .scenario(),
    ]
}
