//! Values one behind the other, without names: who reads them knows their order.

/// Fills a room from its beginning.
#[derive(Default)]
pub(super) struct Writer<'a>(&'a mut [u8]);

impl<'a> Writer<'a> {
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self(room)
    }

    /// How much room is left.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// Leaves a place free, to be filled later.
    pub(super) fn place<const N: usize>(&mut self) -> Option<&'a mut [u8; N]> {
        let (place, rest) = std::mem::take(&mut self.0).split_first_chunk_mut()?;
        self.0 = rest;
        Some(place)
    }

    /// `None` when there is no room.
    pub(super) fn put<const N: usize>(&mut self, bytes: [u8; N]) -> Option<()> {
        *self.place()? = bytes;
        Some(())
    }

    /// The same behind a byte that tells whether it is there.
    pub(super) fn put_optional<const N: usize>(&mut self, bytes: Option<[u8; N]>) -> Option<()> {
        self.put([u8::from(bytes.is_some())])?;
        bytes.map_or(Some(()), |bytes| self.put(bytes))
    }
}

/// Reads them back.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// `None` where nothing more was written.
    pub(super) fn get<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// The outer is `None` for what was not written here.
    #[expect(clippy::option_option, reason = "one is an error, the other an absent value")]
    pub(super) fn get_optional<const N: usize>(&mut self) -> Option<Option<[u8; N]>> {
        let [is_there] = self.get()?;
        if is_there == 0 { Some(None) } else { self.get().map(Some) }
    }
}
