//! Keeps web pages away from a node that trusts its own machine.
//!
//! A browser runs other people's pages on the machine that the node trusts. Two ways lead from
//! such a page to the node: it sends requests across origins (CSRF), or it makes its own name
//! resolve to 127.0.0.1 and then is, to the browser, the same origin (DNS rebinding). The first
//! shows in `Origin` and `Sec-Fetch-Site`, the second in `Host`: a page cannot forge any of them.
//! Programs that are not browsers send `Host` alone, and pass.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::types::Code;

/// Longest name of a host, in bytes (RFC 1035).
const HOST_BYTES: usize = 253;

/// What a request says about where it comes from. Header values as they stand; a header that was
/// given more than once counts as malformed, so join its values with `, `.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Provenance<'a> {
    /// `Host`, or `:authority` in HTTP/2.
    pub host: Option<&'a str>,
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub sec_fetch_site: Option<&'a str>,
    /// `Sec-Fetch-Mode`.
    pub sec_fetch_mode: Option<&'a str>,
    /// `Sec-Fetch-Dest`.
    pub sec_fetch_dest: Option<&'a str>,
    /// Whether the method is `GET` or `HEAD`.
    pub safe_method: bool,
    /// Whether the route answers with static files and nothing else. Only those may be the target
    /// of a link on someone else's page.
    pub static_page: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no `Host`.
    #[error("the request has no Host header")]
    HostMissing,
    /// `Host` is not a host with or without a port.
    #[error("the Host header is malformed")]
    HostMalformed,
    /// The node does not answer for that host.
    #[error("this node does not answer for host {host}; add it to the allowed hosts if it should")]
    HostNotAllowed {
        /// What the header says.
        host: String,
    },
    /// The page that sent the request is of another origin, or of none.
    #[error(
        "requests of pages from {origin} are not allowed; add it to the allowed origins if they should be"
    )]
    OriginNotAllowed {
        /// What the header says, cut to 253 characters.
        origin: String,
    },
    /// The browser says that a page of another site sent the request.
    #[error("a page of another site sent this request")]
    CrossSite,
}

impl Refusal {
    /// The code that clients see.
    pub const fn code(&self) -> Code {
        match self {
            Self::HostMissing | Self::HostMalformed => Code::InvalidRequest,
            Self::HostNotAllowed { .. } => Code::HostNotAllowed,
            Self::OriginNotAllowed { .. } | Self::CrossSite => Code::OriginNotAllowed,
        }
    }
}

/// A host, or an origin, that an operator wrote down is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// Not a host.
    #[error("{0:?} is not a host with or without a port, such as log.example.org or 10.0.0.5:8080")]
    Host(String),
    /// Not an origin.
    #[error("{0:?} is not an origin, such as https://console.example.org")]
    Origin(String),
}

/// The hosts that the node answers for besides loopback, and the origins whose pages may call it
/// besides its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedHosts {
    /// Without a port: on any.
    hosts: BTreeSet<(Host, Option<u16>)>,
    origins: BTreeSet<Origin>,
}

impl AllowedHosts {
    /// Allows these hosts. One without a port is allowed on any port.
    ///
    /// # Errors
    /// The first entry that is not a host.
    pub fn new<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidEntry> {
        let hosts = hosts
            .into_iter()
            .map(|entry| authority(entry).ok_or_else(|| InvalidEntry::Host(entry.to_owned())))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            hosts,
            origins: BTreeSet::new(),
        })
    }

    /// Allows pages of these origins, too.
    ///
    /// # Errors
    /// The first entry that is not an origin.
    pub fn with_origins<'a>(
        mut self,
        origins: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidEntry> {
        for entry in origins {
            self.origins
                .insert(origin(entry).ok_or_else(|| InvalidEntry::Origin(entry.to_owned()))?);
        }
        Ok(self)
    }

    fn allow_host(&self, host: &Host, port: Option<u16>) -> bool {
        host.is_loopback()
            || [None, port]
                .iter()
                .any(|port| self.hosts.contains(&(host.clone(), *port)))
    }
}

/// Decides whether a request may go on, before anything else looks at it.
///
/// # Errors
/// [`Refusal`]: the request must have no effect, and its answer must say nothing else.
pub fn check(request: &Provenance<'_>, allowed: &AllowedHosts) -> Result<(), Refusal> {
    let text = request.host.ok_or(Refusal::HostMissing)?;
    let (host, port) = authority(text).ok_or(Refusal::HostMalformed)?;
    if !allowed.allow_host(&host, port) {
        return Err(Refusal::HostNotAllowed {
            host: text.to_owned(),
        });
    }
    if let Some(text) = request.origin {
        let origin = origin(text);
        let same = |origin: &Origin| {
            origin.host == host && origin.port == port.unwrap_or(origin.scheme.port())
        };
        if !origin
            .as_ref()
            .is_some_and(|origin| same(origin) || allowed.origins.contains(origin))
        {
            return Err(Refusal::OriginNotAllowed {
                origin: text.chars().take(HOST_BYTES).collect(),
            });
        }
        // The page's origin is known and wanted; how its site relates to ours adds nothing.
        return Ok(());
    }
    match request.sec_fetch_site {
        // No browser, or one too old to say: such a browser names the origin of whatever could do
        // harm, and hides the answers to the rest from the page.
        None | Some("same-origin" | "none") => Ok(()),
        Some("cross-site" | "same-site") if request.follows_link() => Ok(()),
        Some(_) => Err(Refusal::CrossSite),
    }
}

impl Provenance<'_> {
    /// Whether somebody follows a link to a page of ours: the browser leaves the other page, and
    /// what it loads is the same for everyone.
    fn follows_link(&self) -> bool {
        self.static_page
            && self.safe_method
            && self.sec_fetch_mode == Some("navigate")
            && self.sec_fetch_dest == Some("document")
    }
}

/// A host in its one written form: two that are the same compare equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Name(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Host {
    /// Whether only this machine can be behind it, whatever a name server says.
    fn is_loopback(&self) -> bool {
        match self {
            // Browsers resolve these themselves, and nobody can register a name below (RFC 6761).
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            Self::V4(address) => address.is_loopback(),
            Self::V6(address) => address.is_loopback(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        match &self.host {
            Host::Name(name) => write!(f, "{scheme}://{name}")?,
            Host::V4(address) => write!(f, "{scheme}://{address}")?,
            Host::V6(address) => write!(f, "{scheme}://[{address}]")?,
        }
        if self.port == self.scheme.port() {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

impl AllowedHosts {
    /// The allowed origins as browsers write them, for CORS headers.
    pub fn origins(&self) -> impl Iterator<Item = String> {
        self.origins.iter().map(ToString::to_string)
    }
}

fn origin(text: &str) -> Option<Origin> {
    let (scheme, rest) = text.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let (host, port) = authority(rest)?;
    Some(Origin {
        scheme,
        host,
        port: port.unwrap_or(scheme.port()),
    })
}

/// `host` or `host:port`, without user, zone, path or spaces.
fn authority(text: &str) -> Option<(Host, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let port = match rest {
            "" => None,
            rest => Some(port(rest.strip_prefix(':')?)?),
        };
        return Some((Host::V6(address.parse().ok()?), port));
    }
    let (name, port) = match text.split_once(':') {
        None => (text, None),
        Some((name, digits)) => (name, Some(port(digits)?)),
    };
    if let Ok(address) = name.parse() {
        return Some((Host::V4(address), port));
    }
    Some((Host::Name(registered_name(name)?), port))
}

fn port(digits: &str) -> Option<u16> {
    // `parse` alone would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// A name in lower case. Names whose last label is a number are the other spellings of IPv4
/// addresses (`127.1`, `0x7f000001`), which no two programs read alike: those are malformed.
fn registered_name(name: &str) -> Option<String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last = name.rsplit('.').next()?;
    let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if HOST_BYTES < name.len() || !name.split('.').all(label) || numeric {
        return None;
    }
    Some(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
