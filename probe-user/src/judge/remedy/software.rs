//! Settings of the software that a connection belongs to, as far as ports and the owner's name tell.

use super::{ON_THE_BROKER, ONLY_LOOKS, Patient, Remedy};

/// What it takes to make RabbitMQ read its configuration anew.
const RESTARTED_BROKER: &str = "the restart cuts every connection to this node";

/// AMQP, and AMQP over TLS.
const AMQP_PORTS: [u16; 2] = [5672, 5671];

/// The projects whose services speak oslo.messaging. Their processes are called `PROJECT-SERVICE`, their configuration is
/// `/etc/PROJECT/PROJECT.conf`.
const OSLO_PROJECTS: [&str; 20] = [
    "aodh",
    "barbican",
    "blazar",
    "ceilometer",
    "cinder",
    "designate",
    "glance",
    "heat",
    "ironic",
    "keystone",
    "magnum",
    "manila",
    "masakari",
    "mistral",
    "neutron",
    "nova",
    "octavia",
    "sahara",
    "trove",
    "watcher",
];
/// What runs such services without giving them a name of their own.
const PYTHON_HOSTS: [&str; 5] = ["python", "uwsgi", "apache2", "httpd", "gunicorn"];

/// What holds this end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Software {
    /// HAProxy, on either side.
    HaProxy,
    /// RabbitMQ, at the end that listens for AMQP.
    RabbitMq,
    /// A service of OpenStack, connected to its message broker; the project where its name tells.
    OsloMessaging(Option<&'static str>),
    /// Another client of an AMQP broker.
    AmqpClient,
}

fn software(patient: &Patient<'_>) -> Option<Software> {
    let comm = patient.owner.map(|owner| owner.comm.as_str());
    let (listens, connects) = (is_amqp(patient.key.local.port()), is_amqp(patient.key.remote.port()));
    match comm {
        Some("haproxy") => Some(Software::HaProxy),
        // The Erlang machine also runs other things; without its name the port has to do.
        Some("beam.smp") | None if listens => Some(Software::RabbitMq),
        Some(comm) if connects => Some(client(comm)),
        None if connects => Some(Software::AmqpClient),
        Some(_) | None => None,
    }
}

pub(super) fn is_amqp(port: u16) -> bool {
    AMQP_PORTS.contains(&port)
}

fn client(comm: &str) -> Software {
    let project = OSLO_PROJECTS
        .into_iter()
        .find(|project| comm.strip_prefix(project).is_some_and(|service| service.starts_with('-')));
    if project.is_some() || PYTHON_HOSTS.iter().any(|host| comm.starts_with(host)) {
        Software::OsloMessaging(project)
    } else {
        Software::AmqpClient
    }
}

/// What makes a connection with unacknowledged or unsendable data end in seconds.
pub(super) fn end_stalled_sooner(patient: &Patient<'_>) -> Vec<Remedy> {
    match software(patient) {
        Some(Software::HaProxy) => vec![haproxy_user_timeout(patient)],
        Some(Software::RabbitMq) => vec![rabbitmq_heartbeat(patient), rabbitmq_user_timeout()],
        Some(Software::OsloMessaging(project)) => vec![oslo_heartbeat(patient, project)],
        Some(Software::AmqpClient) => vec![client_heartbeat()],
        None => Vec::new(),
    }
}

/// What keeps an idle connection known on the way, or makes its loss known.
pub(super) fn notice_idle_loss(patient: &Patient<'_>) -> Vec<Remedy> {
    match software(patient) {
        Some(Software::HaProxy) => vec![haproxy_keepalive(patient)],
        Some(Software::RabbitMq) => vec![rabbitmq_heartbeat(patient), rabbitmq_keepalive()],
        Some(Software::OsloMessaging(project)) => vec![oslo_heartbeat(patient, project)],
        Some(Software::AmqpClient) => vec![client_heartbeat()],
        None => Vec::new(),
    }
}

/// Why the peer may have ceased to read.
pub(super) fn why_it_does_not_read(patient: &Patient<'_>) -> Option<Remedy> {
    match software(patient) {
        Some(Software::OsloMessaging(_) | Software::AmqpClient) => Some(
            Remedy::new(
                "If the peer is RabbitMQ, see whether an alarm is on: with too little memory or disk it ceases to read from whoever \
                 publishes (state `blocked`), on every node of the cluster; so it does for a while with who publishes too fast \
                 (`flow`).",
            )
            .command("rabbitmq-diagnostics alarms; rabbitmqctl list_connections name state")
            .place(ON_THE_BROKER)
            .risk(ONLY_LOOKS),
        ),
        Some(Software::RabbitMq) => Some(
            Remedy::new(
                "See what waits for this consumer. With `basic.qos` (a prefetch limit) the broker sends no more than it can work \
                 off.",
            )
            .command("rabbitmqctl list_consumers queue_name channel_pid prefetch_count; rabbitmqctl list_connections name state send_pend")
            .place(patient.beside_owner())
            .risk(ONLY_LOOKS),
        ),
        Some(Software::HaProxy) | None => None,
    }
}

fn haproxy_user_timeout(patient: &Patient<'_>) -> Remedy {
    Remedy::new(
        "Let HAProxy set TCP_USER_TIMEOUT, so that the next failover costs seconds: `tcp-ut 30s` at the end of the `bind` line for \
         connections of clients, of the `server` line for those to servers. Keepalive does not help: it waits while data waits.",
    )
    .risk("too short a timeout ends connections over a brief outage")
    .lasting(format!("in /etc/haproxy/haproxy.cfg, then {}; connections that exist keep what they have", reload(patient)))
}

fn haproxy_keepalive(patient: &Patient<'_>) -> Remedy {
    Remedy::new(
        "Let HAProxy turn keepalive on: `option clitcpka` in the frontend, `option srvtcpka` in the backend, and from 2.3 on with \
         times of their own (`clitcpka-idle 60s`, `clitcpka-intvl 10s`, `clitcpka-cnt 3`, and `srvtcpka-` alike). `timeout client` \
         and `timeout server` end what is idle all the same: set them above the heartbeat of what passes through.",
    )
    .risk("some packets more on idle connections; dead clients hold their place for as long as `timeout client`")
    .lasting(format!("in /etc/haproxy/haproxy.cfg, then {}; connections that exist keep what they have", reload(patient)))
}

fn reload(patient: &Patient<'_>) -> String {
    // The name is that of a folder below /sys/fs/cgroup, and one that systemd has escaped has backslashes.
    let unit = service(patient).and_then(|unit| shlex::try_quote(unit).ok());
    unit.map_or("reload it".to_owned(), |unit| format!("`systemctl reload {unit}`"))
}

/// The service that systemd runs.
fn service<'a>(patient: &Patient<'a>) -> Option<&'a str> {
    patient.owner?.place.unit.as_deref().filter(|unit| unit.ends_with(".service"))
}

fn rabbitmq_heartbeat(patient: &Patient<'_>) -> Remedy {
    Remedy::new(
        "Let clients agree to heartbeats: with `heartbeat = 60` the broker ends a connection after a minute without a frame, also \
         while data is unacknowledged. Who has `0` in the column `timeout` has declined them.",
    )
    .command("rabbitmqctl list_connections name timeout")
    .place(patient.beside_owner())
    .risk(format!("the command only looks; below 5 s, clients that are only busy are taken for dead; {RESTARTED_BROKER}"))
    .lasting("`heartbeat = 60` in /etc/rabbitmq/rabbitmq.conf (the default; acts on new connections after a restart of the node)")
}

fn rabbitmq_keepalive() -> Remedy {
    Remedy::new(
        "For clients that decline heartbeats, let RabbitMQ turn keepalive on; the kernel's times for it have to be shortened, too.",
    )
    .risk(format!("some packets more on idle connections; {RESTARTED_BROKER}"))
    .lasting("`tcp_listen_options.keepalive = true` in /etc/rabbitmq/rabbitmq.conf, then restart the node")
}

/// RabbitMQ has no name for the option; the Erlang machine takes it as level 6 (`IPPROTO_TCP`), option 18, and a C integer.
fn rabbitmq_user_timeout() -> Remedy {
    Remedy::new(
        "For clients that decline heartbeats, let the Erlang machine set TCP_USER_TIMEOUT (30 s) on what it accepts.",
    )
    .risk(format!(
        "acts on all its listeners; too short a timeout ends connections over a brief outage; {RESTARTED_BROKER}"
    ))
    .lasting(
        "`RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=\"-kernel inet_default_listen_options [{raw,6,18,<<30000:32/native>>}]\"` in \
         /etc/rabbitmq/rabbitmq-env.conf, then restart the node",
    )
}

fn oslo_heartbeat(patient: &Patient<'_>, project: Option<&str>) -> Remedy {
    let comm = patient.owner.map_or("the client", |owner| owner.comm.as_str());
    let whom = match project {
        Some(_) => format!("Let {comm}"),
        None => format!("If {comm} is a service of OpenStack, let it"),
    };
    let file = project.map_or("its configuration".to_owned(), |project| format!("/etc/{project}/{project}.conf"));
    let remedy = Remedy::new(format!(
        "{whom} use AMQP heartbeats: it then takes its broker for dead after a minute without an answer and reconnects, also \
         while data is unacknowledged. A threshold of 0 turns them off."
    ))
    .risk(
        "too short a threshold ends connections while the service or the broker is only busy; the restart cuts all connections of \
         the service, and what it is working at",
    )
    .lasting(format!(
        "`heartbeat_timeout_threshold = 60` and `heartbeat_rate = 3` under `[oslo_messaging_rabbit]` in {file}, then restart {}",
        service(patient).unwrap_or(comm)
    ));
    match project {
        Some(project) => {
            remedy.command(format!("grep -rE '^ *heartbeat_' /etc/{project}/")).place(patient.beside_owner())
        }
        None => remedy,
    }
}

fn client_heartbeat() -> Remedy {
    Remedy::new(
        "Let the client ask for AMQP heartbeats (its connection option `heartbeat`): it then gives up a connection on which nothing \
         has come back for a minute, also while data is unacknowledged. On the broker, `0` in the column `timeout` is a client \
         without.",
    )
    .command("rabbitmqctl list_connections name timeout")
    .place(ON_THE_BROKER)
    .risk("the command only looks; heartbeats below 5 s take a busy broker for a dead one")
}
