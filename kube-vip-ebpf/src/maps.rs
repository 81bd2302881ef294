//! The maps, by the names `bpftool map` shows, and safe ways to read them.
//!
//! Sizes here are the smallest that make sense; the agent sets the real ones when it loads.

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use kube_vip_common::address::Address;
use kube_vip_common::backend::Backend;
use kube_vip_common::client::{ClientEnd, ClientKey};
use kube_vip_common::clock::Clock;
use kube_vip_common::event::{Event, EventTime, KINDS};
use kube_vip_common::filter::{FILTERS, Filter, WORDS};
use kube_vip_common::flow::{Endpoint4, Endpoint6, Tuple4, Tuple6};
use kube_vip_common::fragment::{FRAGMENTS, Fate, FragmentKey};
use kube_vip_common::frontend::{Frontend, FrontendKey, Listed, PLACES, place};
use kube_vip_common::lease::{self, Lease};
use kube_vip_common::nat::{Nat4, Nat6};
use kube_vip_common::node::{Node, Peer, PeerKey, Uplink};
use kube_vip_common::rate::{Allowance, Client};
use kube_vip_common::settings::Settings;
use kube_vip_common::stats::{BackendTraffic, Count, Reason, Traffic};
use kube_vip_common::table::{Line, USUAL_LINES, USUAL_SLOTS};
use kube_vip_common::vip::Vip;

use crate::family::Record;
use crate::frame::Key as _;
use crate::helpers::boot_time;

/// `BPF_F_INNER_MAP` (Linux 5.10): tables of different lengths fit into one outer map.
const INNER_MAP: usize = 0x1000;

/// `BPF_NOEXIST`: only where there is no such element.
pub const NO_EXIST: u64 = 1;

/// One bit per hashed address or port; see [`kube_vip_common::filter`].
#[btf_map]
pub static FILTER: Array<Filter, FILTERS> = Array::new();

/// Addresses that are ours to judge.
#[btf_map]
pub static VIPS: HashMap<Address, Vip, 1024> = HashMap::new();

/// Until when this host owns what.
#[btf_map]
pub static LEASES: Array<Lease, { lease::LEASES }> = Array::new();

/// Balanced ports.
#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, Frontend, 16> = HashMap::new();

/// Place of a frontend's key → its id, plus one.
#[btf_map]
pub static FRONTEND_IDS: Array<u32, PLACES> = Array::new();

/// Frontend id → key and value once more.
#[btf_map]
pub static FRONTEND_LIST: Array<Listed, 16> = Array::new();

/// A table on its own, the pattern for those in `TABLES_SIZED`; nothing is ever in it.
#[btf_map]
pub static TABLE: Array<Line, 1, INNER_MAP> = Array::new();

/// Frontend id → its table, where that is of the usual size. All are of one length, so the verifier
/// replaces the look-up in them by a few instructions (Linux `kernel/bpf/arraymap.c`,
/// `array_map_gen_lookup`).
#[btf_map]
pub static TABLES: ArrayOfMaps<Array<Line, { USUAL_LINES as usize }>, 16> = ArrayOfMaps::new();

/// Frontend id → its table, where that is of another size.
#[btf_map]
pub static TABLES_SIZED: ArrayOfMaps<Array<Line, 1, INNER_MAP>, 16> = ArrayOfMaps::new();

/// Backend id → where it listens.
#[btf_map]
pub static BACKENDS: Array<Backend, 16> = Array::new();

/// Hosts that take part.
#[btf_map]
pub static NODES: Array<Node, 256> = Array::new();

/// Ethernet address → index into `NODES`.
#[btf_map]
pub static PEERS: HashMap<PeerKey, Peer, 256> = HashMap::new();

/// IP address → index into `NODES`, of other hosts that take part.
#[btf_map]
pub static PEER_IPS: HashMap<Address, Peer, 512> = HashMap::new();

/// Interface index → own Ethernet address there.
#[btf_map]
pub static UPLINKS: HashMap<u32, Uplink, 64> = HashMap::new();

/// Entries of maps of connections before the agent says how many there are to be.
pub const SMALLEST: usize = 1024;

/// Connections delivered here, by the tuple client → VIP.
#[btf_map]
pub static FLOWS4: LruHashMap<Tuple4, Endpoint4, SMALLEST> = LruHashMap::new();

/// As `FLOWS4`, for IPv6.
#[btf_map]
pub static FLOWS6: LruHashMap<Tuple6, Endpoint6, SMALLEST> = LruHashMap::new();

/// Their replies, by the tuple backend → client.
#[btf_map]
pub static REVERSE4: LruHashMap<Tuple4, Endpoint4, SMALLEST> = LruHashMap::new();

/// As `REVERSE4`, for IPv6.
#[btf_map]
pub static REVERSE6: LruHashMap<Tuple6, Endpoint6, SMALLEST> = LruHashMap::new();

/// Both directions of connections whose client has yet to prove that it exists: a flood of first
/// packets evicts only its like.
#[btf_map]
pub static HALF4: LruHashMap<Tuple4, Endpoint4, SMALLEST> = LruHashMap::new();

/// As `HALF4`, for IPv6.
#[btf_map]
pub static HALF6: LruHashMap<Tuple6, Endpoint6, SMALLEST> = LruHashMap::new();

/// What clients have used up of their allowance, where a frontend limits them.
#[btf_map]
pub static RATES: LruHashMap<Client, Allowance, 16384> = LruHashMap::new();

/// What all fragments of a packet have in common → what became of the first.
#[btf_map]
pub static FRAGS: LruHashMap<FragmentKey, Fate, FRAGMENTS> = LruHashMap::new();

/// The key of the first fragment that this CPU is at, as it was before anything changed.
#[btf_map]
pub static FRAG_KEY: PerCpuArray<FragmentKey, 1> = PerCpuArray::new();

/// Connections that this host translates, both directions of each.
#[btf_map]
pub static NAT4: LruHashMap<Tuple4, Nat4, 1024> = LruHashMap::new();

/// As `NAT4`, for IPv6.
#[btf_map]
pub static NAT6: LruHashMap<Tuple6, Nat6, 1024> = LruHashMap::new();

/// Number of the next try to find a port for one.
#[btf_map]
pub static NAT_PORTS: Array<u32, 1> = Array::new();

/// Where sockets of this host were led, both ways.
#[btf_map]
pub static CLIENTS: LruHashMap<ClientKey, ClientEnd, 1024> = LruHashMap::new();

/// Counters by [`Reason`].
#[btf_map]
pub static STATS: PerCpuArray<Count, { Reason::ALL.len() }> = PerCpuArray::new();

/// What arrived, by frontend id.
#[btf_map]
pub static FRONTEND_STATS: PerCpuArray<Traffic, 16> = PerCpuArray::new();

/// What went and came, by backend id.
#[btf_map]
pub static BACKEND_STATS: PerCpuArray<BackendTraffic, 16> = PerCpuArray::new();

/// Rare things the agent should know at once.
#[btf_map]
pub static EVENTS: RingBuf<Event, 65536> = RingBuf::new();

/// Time of the last event of each kind, nanoseconds since boot.
#[btf_map]
pub static EVENT_TIMES: Array<EventTime, KINDS> = Array::new();

/// What the agent tells the programs.
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

/// The time, by the agent's hand.
#[btf_map]
pub static CLOCK: Array<Clock, 1> = Array::new();

/// The entry of an address that is ours to judge.
#[inline(always)]
pub fn vip(address: &Address) -> Option<&'static Vip> {
    // SAFETY: the agent may change the entry meanwhile; each field is read once and no two of them
    // depend on each other.
    unsafe { VIPS.get(address) }
}

/// The entry of a balanced port, by the words of its key.
///
/// The list is written in place, but only while no id leads there. A packet that got there before
/// finds another key, or, if the writing overtakes it within this function, what is to be there: it
/// is then sent as a packet a moment later would be.
#[inline(always)]
pub fn frontend(key: [u64; 3]) -> Option<&'static Frontend> {
    if let Some(id) = FRONTEND_IDS.get(place(key)).and_then(|id| id.checked_sub(1))
        && let Some(listed) = FRONTEND_LIST.get(id)
        && is_same(listed.key.to_words(), key)
    {
        return Some(&listed.frontend);
    }
    // SAFETY: the agent replaces an entry as a whole (a new element, RCU), never in place.
    unsafe { FRONTENDS.get(FrontendKey::from_words(key)) }
}

/// That line of a frontend's table.
#[inline(always)]
pub fn table_line(frontend: &Frontend, index: u32) -> Option<&'static Line> {
    if frontend.slots == USUAL_SLOTS {
        return TABLES.get(frontend.id)?.get(index);
    }
    // SAFETY: an element of a map, which stays while the program runs.
    unsafe { sized_line(frontend.id, index).as_ref() }
}

/// That line of a table of another size, or null. A function of its own, because LLVM would make one
/// call of two look-ups, and the verifier replaces none that may go to either map.
#[inline(never)]
fn sized_line(id: u32, index: u32) -> *const Line {
    let line = TABLES_SIZED.get(id).and_then(|table| table.get(index));
    line.map_or(core::ptr::null(), core::ptr::from_ref)
}

/// The index into `NODES` of the agent with that Ethernet address.
#[inline(always)]
pub fn peer(mac: [u8; 6]) -> Option<u32> {
    // SAFETY: one word, copied.
    unsafe { PEERS.get(PeerKey::new(mac)).map(|peer| peer.node) }
}

/// The index into `NODES` of the agent with that IP address.
#[inline(always)]
pub fn peer_at(address: &Address) -> Option<u32> {
    // SAFETY: one word, copied.
    unsafe { PEER_IPS.get(address).map(|peer| peer.node) }
}

/// This host's own Ethernet address on an uplink.
#[inline(always)]
pub fn own_mac(ifindex: u32) -> Option<[u8; 6]> {
    // SAFETY: copied at once; the agent replaces an entry as a whole.
    unsafe { UPLINKS.get(ifindex).map(|uplink| uplink.mac.octets) }
}

/// Seconds, as the agent counts them.
#[inline(always)]
pub fn clock() -> u32 {
    CLOCK.get(0).map_or(0, |clock| clock.seconds)
}

/// Takes all bits out of `FILTER`.
#[inline(always)]
pub fn empty_filters() {
    for filter in 0..FILTERS as u32 {
        let Some(filter) = FILTER.get_ptr_mut(filter) else { continue };
        for word in 0..WORDS {
            // SAFETY: the element stays allocated, and `word` is within it. Volatile, or LLVM would
            // make a memset of this, which there is none of.
            unsafe { (&raw mut (*filter).words[word]).write_volatile(0) };
        }
    }
}

/// The number of a try to find a port; two CPUs may get the same, and find the port taken.
#[inline(always)]
pub fn next_try() -> u32 {
    match NAT_PORTS.get_ptr_mut(0) {
        Some(next) => {
            // SAFETY: the element stays allocated; a number that is read and written as a whole.
            let number = unsafe { next.read_volatile() };
            // SAFETY: as above.
            unsafe { next.write_volatile(number.wrapping_add(1)) };
            number
        }
        None => 0,
    }
}

/// Where a connection goes, or its reply comes from.
#[inline(always)]
pub fn endpoint<K, V: Copy, const N: usize>(map: &LruHashMap<K, V, N>, key: &K) -> Option<V> {
    read(map, key, |value| *value)
}

/// The same, in its place: what every packet looks up takes no stack as a copy.
#[inline(always)]
pub fn in_place<K, V, const N: usize>(map: &LruHashMap<K, V, N>, key: &K) -> Option<&'static V> {
    // SAFETY: as in `read`, and the element stays allocated while the program runs.
    unsafe { map.get(key).map(|value| &*core::ptr::from_ref(value)) }
}

/// The same, copied as [`Record::copy`] does.
#[inline(always)]
pub fn record<K, V: Record, const N: usize>(map: &LruHashMap<K, V, N>, key: &K) -> Option<V> {
    read(map, key, Record::copy)
}

/// Keeps the key of a first fragment until the program is done with it.
#[inline(always)]
pub fn keep_fragment(key: [u64; 5]) {
    if let Some(kept) = FRAG_KEY.get_ptr_mut(0) {
        // SAFETY: this CPU's own value; nothing comes between before the same program reads it.
        unsafe { *kept = FragmentKey::from_words(key) };
    }
}

/// The key kept last.
#[inline(always)]
pub fn kept_fragment() -> Option<&'static FragmentKey> {
    // SAFETY: as in `keep_fragment`.
    FRAG_KEY.get_ptr(0).map(|kept| unsafe { &*kept })
}

/// What became of a first fragment.
#[inline(always)]
pub fn fate(key: &FragmentKey) -> Option<Fate> {
    // SAFETY: copied at once, as in `read`.
    unsafe { FRAGS.get(key).copied() }
}

/// Reads a value in its place: a long one would take much of the stack as a copy.
#[inline(always)]
pub fn read<K, V, T, const N: usize>(
    map: &LruHashMap<K, V, N>,
    key: &K,
    read: impl FnOnce(&V) -> T,
) -> Option<T> {
    // SAFETY: read at once. An element that is evicted meanwhile may be reused for another connection
    // within the reading; the kernel offers nothing better for LRU maps (Linux
    // Documentation/bpf/map_hash.rst, "Concurrency"), and the next packet reads it right.
    unsafe { map.get(key).map(read) }
}

/// Changes a value in its place, where it is; what came of it.
#[inline(always)]
pub fn change<K, V, T, const N: usize>(
    map: &LruHashMap<K, V, N>,
    key: &K,
    change: impl FnOnce(&mut V) -> T,
) -> Option<T> {
    let value = map.get_ptr_mut(key)?;
    // SAFETY: the element stays allocated while the program runs; readers on other CPUs copy single
    // words.
    Some(change(unsafe { &mut *value }))
}

/// Counts one more of a client; false where its allowance is used up.
#[inline(always)]
pub fn admits(client: &Client, interval: u32) -> bool {
    let now = boot_time();
    let known = RATES.get_ptr_mut(client);
    let before = match known {
        // SAFETY: as in `change`. Two processors may take the same one: a limit is no sum of money.
        Some(allowance) => unsafe { *allowance },
        None => Allowance::default(),
    };
    let Some(after) = before.take(now, interval) else {
        return false;
    };
    match known {
        // SAFETY: as above.
        Some(allowance) => unsafe { *allowance = after },
        // Without room nobody is held up.
        None => drop(RATES.insert(client, after, 0)),
    }
    true
}

/// Whether two keys are the same. LLVM makes a call of `memcmp` of `==`, which goes byte by byte: a
/// fifth of the time that forwarding took.
#[inline(always)]
fn is_same([a, b, c]: [u64; 3], [d, e, f]: [u64; 3]) -> bool {
    (a ^ d) | (b ^ e) | (c ^ f) == 0
}

/// Whether a line holds slots or the header follows from its place, so reading a [`Line`] is safe
/// wherever the index is right: every byte pattern is a value of each view.
pub mod line {
    use kube_vip_common::history::Past;
    use kube_vip_common::table::{Header, Line, SLOTS_PER_LINE, Slot};

    /// The header in line 0.
    #[inline(always)]
    pub fn header(line: &Line) -> &Header {
        // SAFETY: all views are plain numbers filling the line.
        unsafe { &line.header }
    }

    /// The slot with that number in its line.
    #[inline(always)]
    pub fn slot(line: &Line, slot: u32) -> Slot {
        // SAFETY: as above.
        unsafe { line.slots[(slot % SLOTS_PER_LINE) as usize] }
    }

    /// The history of the slot with that number in its line.
    #[inline(always)]
    pub fn past(line: &Line, slot: u32) -> Past {
        // SAFETY: as above.
        unsafe { line.pasts[(slot % SLOTS_PER_LINE) as usize] }
    }
}
