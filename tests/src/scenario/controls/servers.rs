//! Real server programs: a proxy with health checks before a web server, and clients that end connections in every way that is in
//! order.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};

use crate::{
    labs::routed::Routed,
    require::Requirement::{Conntrack, Servers},
    scenario::{
        Scenario,
        script::{Cast, Script, Seat},
    },
    server,
};

pub(super) fn all() -> Vec<Scenario> {
    vec![
        Script::<Routed> {
            needs: &[Conntrack, Servers],
            is_alone: true,
            is_shared: false,
            limit: Duration::from_secs(240),
            server: None,
            act: noise,
            ..Script::control(
                "real-servers",
                "HAProxy with health checks before nginx, through a stateful firewall, however clients end their connections",
                &[Seat::Client, Seat::Middle, Seat::Server],
            )
        }
        .scenario(),
    ]
}

const PROXY: ([u8; 4], u16) = ([10, 77, 1, 254], 8080);
const WEB_PORT: u16 = 80;

/// What is invalid is dropped everywhere, what is forwarded must have begun with a SYN.
const FIREWALL: &str = "table inet firewall { \
    chain input { type filter hook input priority 0; ct state invalid drop; }; \
    chain forward { type filter hook forward priority 0; ct state established,related accept; \
                    tcp flags & (syn|ack) == syn ct state new accept; meta l4proto tcp drop; }; }\n";

/// HTTP checks that read the answer, and TCP checks that end with a reset as soon as the SYN-ACK is there.
const HAPROXY: &str = "
defaults
    mode http
    timeout connect 5s
    timeout client 2s
    timeout http-keep-alive 500ms
    timeout server 20s
frontend web
    bind 10.77.1.254:8080
    default_backend app
backend app
    option httpchk GET /
    server one 10.77.2.1:80 check inter 200ms
    server closed 10.77.2.1:81 check inter 200ms backup
listen plain
    mode tcp
    bind 10.77.1.254:8081
    server two 10.77.2.1:80 check inter 100ms
";

const NGINX: &str = "
    keepalive_timeout 1s;
    lingering_close off;
    server {
        listen 10.77.2.1:80;
        client_max_body_size 1k;
        location / { return 200 'some words\\n'; }
    }
";

fn noise(cast: &mut Cast<Routed>) -> Result<()> {
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let [for_web, for_proxy] = &folders;
    let web = server::nginx(&cast.lab.server, for_web.path(), NGINX)?;
    let proxy = server::haproxy(&cast.lab.router, for_proxy.path(), HAPROXY)?;
    cast.lab.router.nft(FIREWALL)?;
    let proxied = SocketAddr::from(PROXY);
    let direct = Routed::server_v4(WEB_PORT);
    for address in [proxied, direct] {
        cast.lab.client.run(|| until_it_answers(address))??;
    }
    let (mut rounds, end) = (0, Instant::now() + Duration::from_secs(12));
    while Instant::now() < end {
        for address in [proxied, direct] {
            cast.lab.client.run(|| every_ending(address))?.with_context(|| format!("round {rounds} with {address}"))?;
        }
        rounds += 1;
    }
    // For the timeouts of connections kept alive, and the resets that late segments draw.
    sleep(Duration::from_secs(3));
    ensure!(rounds > 2, "only {rounds} rounds");
    cast.keep((web, proxy, folders));
    Ok(())
}

fn until_it_answers(address: SocketAddr) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if TcpStream::connect(address).is_ok_and(|stream| ask(stream, "GET", "close").is_ok_and(|answer| answer > 0)) {
            return Ok(());
        }
        sleep(Duration::from_millis(200));
    }
    bail!("{address} does not answer")
}

/// One connection of each way to end: by the server, by the client's half, by the client's reset, with data that is not read, kept alive
/// until the server closes, and one without a word.
fn every_ending(address: SocketAddr) -> Result<()> {
    let connect = || TcpStream::connect(address).context("cannot connect");
    for _ in 0..20 {
        ensure!(ask(connect()?, "GET", "close")? > 0, "no answer");
    }
    let half = connect()?;
    send(&half, "GET", "keep-alive")?;
    half.shutdown(Shutdown::Write)?;
    read_all(half)?;
    let aborted = connect()?;
    send(&aborted, "GET", "keep-alive")?;
    setsockopt(&aborted, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(aborted);
    let unread = connect()?;
    send(&unread, "GET", "keep-alive")?;
    sleep(Duration::from_millis(50));
    drop(unread);
    let kept = connect()?;
    for _ in 0..3 {
        send(&kept, "GET", "keep-alive")?;
        sleep(Duration::from_millis(20));
    }
    // The server refuses a body this long, and closes without having read it.
    let mut refused = connect()?;
    let _ = refused.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n");
    let _ = refused.write_all(&vec![b'x'; 300_000]);
    let _ = read_all(refused);
    drop(connect()?);
    drop(kept);
    Ok(())
}

fn ask(stream: TcpStream, method: &str, connection: &str) -> Result<usize> {
    send(&stream, method, connection)?;
    read_all(stream)
}

fn send(mut stream: &TcpStream, method: &str, connection: &str) -> Result<()> {
    let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes()).context("cannot send")
}

fn read_all(mut stream: TcpStream) -> Result<usize> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(answer.len()),
        Err(error) => Err(error).context("no end of the answer"),
    }
}
