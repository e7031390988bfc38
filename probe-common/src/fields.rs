//! Where the fields of kernel structures are: resolved by user space from the running kernel's BTF, read by the programs.

/// A field of a kernel structure that the programs read. The number is the index into the table of locations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
#[expect(missing_docs, reason = "user space's table of paths documents each")]
pub enum Field {
    SkFamily,
    SkState,
    SkDaddr,
    SkRcvSaddr,
    SkV6Daddr,
    SkV6RcvSaddr,
    SkDport,
    SkNum,
    SkNet,
    SkCookie,
    SkProtocol,
    SkErr,
    SkFlags,
    SkRxDstIfindex,
    SkDstCache,
    InetSport,
    IcskRetransmits,
    IcskBackoff,
    IcskRto,
    IcskRtoMax,
    IcskUserTimeout,
    IcskProbesOut,
    TpSndUna,
    TpSndNxt,
    TpWriteSeq,
    TpSndWnd,
    TpPacketsOut,
    TpTotalRetrans,
    TpRetransStamp,
    TpUsecTs,
    TpRcvTstamp,
    TpKeepaliveTime,
    TpKeepaliveIntvl,
    TpKeepaliveProbes,
    NetInum,
    NetTcpRetries2,
    NetTcpOrphanRetries,
    DstDev,
    DevIfindex,
    ReqNumTimeout,
    IcskPending,
    IcskTimeout,
    IcskProbesTstamp,
    SkTimerExpires,
    IcskAckLrcvtime,
    NetKeepaliveTime,
    NetKeepaliveIntvl,
    NetKeepaliveProbes,
    SkErrSoft,
    SkSocket,
    SocketInode,
    SkbHead,
    SkbNetworkHeader,
    SkbDev,
    SkbRefdst,
    DevNet,
    TpTcpMstamp,
    SkbData,
    SkbLen,
    SkbSkbIif,
    SkbIpSummed,
    SkbNfct,
    SkbSk,
    ReqNumRetrans,
    ReqAcked,
    TpBytesSent,
    TpBytesRetrans,
    TpBytesAcked,
    TpBytesReceived,
    TpSegsOut,
    TpSegsIn,
    TpSrttUs,
    TpRttMin,
    SkUid,
    SkCgroup,
    CgroupKn,
    KnId,
    SkShutdown,
    TpLinger2,
    TpDataSegsIn,
    TpClockCache,
}

impl Field {
    /// Every field, in the order of the table.
    pub const ALL: [Self; 81] = [
        Self::SkFamily,
        Self::SkState,
        Self::SkDaddr,
        Self::SkRcvSaddr,
        Self::SkV6Daddr,
        Self::SkV6RcvSaddr,
        Self::SkDport,
        Self::SkNum,
        Self::SkNet,
        Self::SkCookie,
        Self::SkProtocol,
        Self::SkErr,
        Self::SkFlags,
        Self::SkRxDstIfindex,
        Self::SkDstCache,
        Self::InetSport,
        Self::IcskRetransmits,
        Self::IcskBackoff,
        Self::IcskRto,
        Self::IcskRtoMax,
        Self::IcskUserTimeout,
        Self::IcskProbesOut,
        Self::TpSndUna,
        Self::TpSndNxt,
        Self::TpWriteSeq,
        Self::TpSndWnd,
        Self::TpPacketsOut,
        Self::TpTotalRetrans,
        Self::TpRetransStamp,
        Self::TpUsecTs,
        Self::TpRcvTstamp,
        Self::TpKeepaliveTime,
        Self::TpKeepaliveIntvl,
        Self::TpKeepaliveProbes,
        Self::NetInum,
        Self::NetTcpRetries2,
        Self::NetTcpOrphanRetries,
        Self::DstDev,
        Self::DevIfindex,
        Self::ReqNumTimeout,
        Self::IcskPending,
        Self::IcskTimeout,
        Self::IcskProbesTstamp,
        Self::SkTimerExpires,
        Self::IcskAckLrcvtime,
        Self::NetKeepaliveTime,
        Self::NetKeepaliveIntvl,
        Self::NetKeepaliveProbes,
        Self::SkErrSoft,
        Self::SkSocket,
        Self::SocketInode,
        Self::SkbHead,
        Self::SkbNetworkHeader,
        Self::SkbDev,
        Self::SkbRefdst,
        Self::DevNet,
        Self::TpTcpMstamp,
        Self::SkbData,
        Self::SkbLen,
        Self::SkbSkbIif,
        Self::SkbIpSummed,
        Self::SkbNfct,
        Self::SkbSk,
        Self::ReqNumRetrans,
        Self::ReqAcked,
        Self::TpBytesSent,
        Self::TpBytesRetrans,
        Self::TpBytesAcked,
        Self::TpBytesReceived,
        Self::TpSegsOut,
        Self::TpSegsIn,
        Self::TpSrttUs,
        Self::TpRttMin,
        Self::SkUid,
        Self::SkCgroup,
        Self::CgroupKn,
        Self::KnId,
        Self::SkShutdown,
        Self::TpLinger2,
        Self::TpDataSegsIn,
        Self::TpClockCache,
    ];

    /// How many fields there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Index into the table of locations.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The field's bit in [`crate::abi::SocketRecord::available`]; none for the later fields, which no record holds.
    pub const fn bit(self) -> u64 {
        if (self as u16) < 64 { 1 << (self as u16) } else { 0 }
    }
}

const _: () = {
    assert!(Field::ReqNumRetrans.bit() != 0, "`available` is a 64-bit set");
    let mut index = 0;
    while index < Field::COUNT {
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
        let field = Field::ALL[index];
        assert!(field.index() == index, "`ALL` is in the order of the discriminants");
        index += 1;
    }
};

/// Where one field is within its structure, packed into a `u32`: bits 0–15 the byte offset, bits 16–18 the first bit within
/// that byte, bits 24–31 the width in bits when it is a bit-field (0 for an ordinary field).
pub type Location = u32;

/// This kernel has no such field, or not of the expected width and type.
pub const UNAVAILABLE: Location = u32::MAX;

/// Packs a location; `None` when a part does not fit.
pub const fn location(offset_bytes: u32, first_bit: u32, width_bits: u32) -> Option<Location> {
    if offset_bytes > 0xffff || first_bit > 7 || width_bits > 8 {
        return None;
    }
    Some(offset_bytes | first_bit << 16 | width_bits << 24)
}

/// The byte offset of a location.
pub const fn offset_bytes(location: Location) -> u32 {
    location & 0xffff
}

/// Takes a bit-field's value out of the byte at its offset.
#[expect(clippy::cast_possible_truncation, reason = "a width is at most 8 bits, and the mask is as wide")]
pub const fn bit_field(location: Location, byte: u8) -> u8 {
    let first_bit = (location >> 16) & 7;
    let width_bits = location >> 24;
    let mask = ((1u16 << width_bits) - 1) as u8;
    (byte >> first_bit) & mask
}
