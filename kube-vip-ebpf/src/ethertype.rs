//! EtherTypes (IEEE 802), as they lie in memory.

/// RFC 894.
pub(crate) const IPV4: u16 = 0x0800_u16.to_be();
/// RFC 826.
pub(crate) const ARP: u16 = 0x0806_u16.to_be();
/// RFC 2464.
pub(crate) const IPV6: u16 = 0x86dd_u16.to_be();
/// A VLAN tag follows: a customer's, or a provider's outside of that (IEEE 802.1Q §9.6).
const CUSTOMER_TAG: u16 = 0x8100_u16.to_be();
const SERVICE_TAG: u16 = 0x88a8_u16.to_be();

/// Whether a VLAN tag follows.
#[inline(always)]
pub(crate) const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, CUSTOMER_TAG | SERVICE_TAG)
}
