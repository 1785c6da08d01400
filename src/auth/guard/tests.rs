//! What is let in and what is not, header by header.

use super::*;

fn allowed() -> AllowedHosts {
    AllowedHosts::new(["Log.example.org", "10.0.0.5:8080", "[fd00::5]", "7f3a2b1c"])
        .and_then(|allowed| {
            allowed.with_origins(["https://console.example.org", "http://localhost:3000"])
        })
        .unwrap()
}

fn host(host: &str) -> Result<(), Refusal> {
    check(
        &Provenance {
            host: Some(host),
            ..Provenance::default()
        },
        &allowed(),
    )
}

fn origin(host: &str, origin: &str) -> Result<(), Refusal> {
    // A browser that can be rebound or tricked says that all is well.
    for sec_fetch_site in [None, Some("same-origin"), Some("cross-site")] {
        let request = Provenance {
            host: Some(host),
            origin: Some(origin),
            sec_fetch_site,
            ..Provenance::default()
        };
        check(&request, &allowed())?;
    }
    Ok(())
}

#[test]
fn loopback_and_configured_hosts_are_answered() {
    for good in [
        "localhost",
        "localhost:8080",
        "LocalHost:8080",
        "api.localhost:8080",
        "a.b.LOCALHOST",
        "127.0.0.1",
        "127.0.0.1:65535",
        "127.255.3.9:1",
        "[::1]",
        "[::1]:8080",
        "[0:0:0:0:0:0:0:1]",
        "log.example.org",
        "LOG.EXAMPLE.ORG:9999",
        "10.0.0.5:8080",
        "[fd00::5]:1",
        "[FD00:0::5]",
        "7f3a2b1c:8080",
    ] {
        assert_eq!(host(good), Ok(()), "{good}");
    }
}

#[test]
fn a_name_that_was_rebound_to_this_machine_is_refused() {
    for evil in [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil-localhost",
        "notlocalhost:8080",
        "127-0-0-1.nip.io",
        "localhost-",
        "log.example.org.evil.example",
        "sub.log.example.org",
        "10.0.0.5",
        "10.0.0.5:8081",
        "10.0.0.6:8080",
        "0.0.0.0:8080",
        "128.0.0.1",
        "[::]:8080",
        "[::2]",
        "[fd00::6]",
        "[fe80::1]",
    ] {
        assert_eq!(
            host(evil),
            Err(Refusal::HostNotAllowed {
                host: evil.to_owned()
            })
        );
    }
}

#[test]
fn a_host_that_is_not_plainly_written_is_refused() {
    let long = format!("{}.localhost", "a.".repeat(130));
    for bad in [
        "",
        " ",
        " localhost",
        "localhost ",
        "localhost.",
        "localhost.:8080",
        ".localhost",
        "a..localhost",
        "localhost:",
        "localhost:x",
        "localhost:+80",
        "localhost:-1",
        "localhost:65536",
        "localhost:80:80",
        "localhost, evil.example",
        "localhost,localhost",
        "user@localhost",
        "localhost@evil.example",
        "evil.example@localhost:8080",
        "localhost/",
        "localhost/evil.example",
        "localhost?x",
        "localhost#x",
        "localhost\\evil",
        "local%68ost",
        "http://localhost",
        "lоcalhost",
        "localhost\0",
        "localhost\r\nX: y",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0X7F000001",
        "0x",
        "0x7f.0.0.1",
        "127.0.0.01",
        "0177.0.0.1",
        "127.0.0.1.",
        "127.0.0.256",
        "::1",
        "::1:8080",
        "[::1",
        "[::1]8080",
        "[::1]:",
        "[::1]:x",
        "[::1]x",
        "[::1%lo]",
        "[::1%25eth0]",
        "[]",
        "[localhost]",
        "[127.0.0.1]",
        "[[::1]]",
        &long,
    ] {
        assert_eq!(host(bad), Err(Refusal::HostMalformed), "{bad:?}");
    }
    assert_eq!(
        check(&Provenance::default(), &allowed()),
        Err(Refusal::HostMissing)
    );
}

#[test]
fn pages_of_the_node_itself_and_of_configured_origins_may_call_it() {
    for (host, page) in [
        ("localhost:8080", "http://localhost:8080"),
        ("LOCALHOST:8080", "http://localhost:8080"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("log.example.org", "https://log.example.org"),
        ("log.example.org:443", "https://log.example.org"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("localhost:8080", "https://console.example.org"),
        ("localhost:8080", "https://console.example.org:443"),
        ("localhost:8080", "http://localhost:3000"),
    ] {
        assert_eq!(origin(host, page), Ok(()), "{page} calls {host}");
    }
}

#[test]
fn pages_of_other_origins_are_refused_whatever_else_they_say() {
    for page in [
        "http://evil.example",
        "https://evil.example",
        "null",
        "",
        "*",
        "http://localhost",
        "http://localhost:8081",
        "http://localhost:3001",
        "https://localhost:3000",
        "http://127.0.0.1:8080",
        "http://[::1]:8080",
        "http://a.localhost:8080",
        "http://console.example.org",
        "https://console.example.org:8443",
        "https://console.example.org.evil.example",
        "https://evil.example/https://console.example.org",
        "http://localhost:8080/",
        "http://localhost:8080/x",
        "http://user@localhost:8080",
        "http://localhost:8080@evil.example",
        "http://localhost:8080 http://evil.example",
        "http://localhost:8080, http://evil.example",
        "http://localhost.:8080",
        "HTTP://localhost:8080",
        "file://",
        "file://localhost:8080",
        "chrome-extension://localhost:8080",
        "localhost:8080",
        "//localhost:8080",
        "http:localhost:8080",
        "http://",
    ] {
        let refused = Err(Refusal::OriginNotAllowed {
            origin: page.to_owned(),
        });
        assert_eq!(origin("localhost:8080", page), refused);
    }
    // Same origin as a host that is not ours is no help.
    assert_eq!(
        origin("evil.example:8080", "http://evil.example:8080"),
        Err(Refusal::HostNotAllowed {
            host: "evil.example:8080".to_owned()
        })
    );
}

#[test]
fn a_page_of_another_site_may_lead_to_the_console_and_to_nothing_else() {
    let link = Provenance {
        host: Some("localhost:8080"),
        sec_fetch_site: Some("cross-site"),
        sec_fetch_mode: Some("navigate"),
        sec_fetch_dest: Some("document"),
        safe_method: true,
        static_page: true,
        ..Provenance::default()
    };
    let check = |request: &Provenance<'_>| check(request, &allowed());
    assert_eq!(check(&link), Ok(()));
    assert_eq!(
        check(&Provenance {
            sec_fetch_site: Some("same-site"),
            ..link
        }),
        Ok(())
    );
    for other in [
        Provenance {
            static_page: false,
            ..link
        },
        Provenance {
            safe_method: false,
            ..link
        },
        Provenance {
            sec_fetch_mode: Some("no-cors"),
            ..link
        },
        Provenance {
            sec_fetch_mode: None,
            ..link
        },
        Provenance {
            sec_fetch_dest: Some("iframe"),
            ..link
        },
        Provenance {
            sec_fetch_dest: Some("image"),
            ..link
        },
        Provenance {
            sec_fetch_dest: None,
            ..link
        },
        Provenance {
            sec_fetch_site: Some("same-site"),
            static_page: false,
            ..link
        },
        Provenance {
            sec_fetch_site: Some("Cross-Site"),
            ..link
        },
        Provenance {
            sec_fetch_site: Some("same-origin, cross-site"),
            ..link
        },
        Provenance {
            sec_fetch_site: Some(""),
            ..link
        },
    ] {
        assert_eq!(check(&other), Err(Refusal::CrossSite), "{other:?}");
    }
}

#[test]
fn what_a_person_types_and_what_a_program_sends_passes() {
    for sec_fetch_site in [None, Some("none"), Some("same-origin")] {
        let request = Provenance {
            host: Some("localhost:8080"),
            sec_fetch_site,
            ..Provenance::default()
        };
        assert_eq!(check(&request, &AllowedHosts::default()), Ok(()));
    }
}

#[test]
fn configured_entries_are_checked_and_written_back_as_browsers_write_them() {
    for bad in ["", "*", "http://a.example", "a.example/", "a b", "127.1"] {
        assert_eq!(
            AllowedHosts::new([bad]),
            Err(InvalidEntry::Host(bad.to_owned()))
        );
    }
    for bad in [
        "",
        "*",
        "null",
        "a.example",
        "ftp://a.example",
        "https://a.example/",
    ] {
        assert_eq!(
            AllowedHosts::default().with_origins([bad]),
            Err(InvalidEntry::Origin(bad.to_owned()))
        );
    }
    let origins = [
        "https://A.example:443",
        "http://[0:0::1]:80",
        "http://10.0.0.5:8080",
    ];
    let allowed = AllowedHosts::default().with_origins(origins).unwrap();
    assert_eq!(
        allowed.origins().collect::<BTreeSet<_>>(),
        ["https://a.example", "http://[::1]", "http://10.0.0.5:8080"]
            .map(String::from)
            .into()
    );
}
