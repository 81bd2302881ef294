//! EtherTypes (IEEE 802), as they lie in memory.

/// RFC 894.
pub(crate) const IPV4: u16 = 0x0800_u16.to_be();
/// RFC 826.
pub(crate) const ARP: u16 = 0x0806_u16.to_be();
/// RFC 2464.
pub(crate) const IPV6: u16 = 0x86dd_u16.to_be();
