//! Every branch of the kernel programs: packet in, verdict and packet out. Needs root and no
//! interface.

mod clamp;
mod cluster;
mod frames;
mod kernel;

mod agent;
mod arp;
mod balance;
mod decapsulate;
mod deliver;
mod direct;
mod echo;
mod extensions;
mod fence;
mod forward;
mod fragments;
mod halfopen;
mod health;
mod icmp_errors;
mod jumbo;
mod nat;
mod nat_errors;
mod nd;
mod passing;
mod places;
mod probe;
mod reply;
mod reset;
mod sctp;
mod second;
mod sockets;
mod tunnel;
mod unbalanced;
mod unreachable;
mod vlan;
