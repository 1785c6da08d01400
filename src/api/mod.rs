//! The wire (layer 3): what goes over HTTP, shared by server, client and command line.

pub mod v1;
