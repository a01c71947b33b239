//! bzip2. A decoder of our own: the format has not changed since 1997, and what others offer is either unmaintained or
//! a translation of the C library with its `unsafe`.

use anyhow::{Context, bail};

use super::output::BoundedOutput;

const BLOCK_MAGIC: u64 = 0x3141_5926_5359;
const END_MAGIC: u64 = 0x1772_4538_5090;

/// Symbols that are coded with one table before the next selector chooses another.
const GROUP_SYMBOLS: usize = 50;
/// The longest code of a symbol, in bits.
const MAX_CODE_BITS: u8 = 20;
/// Codes of up to this many bits are found in a table, of 4 KiB for each of up to six.
const SHORT_CODE_BITS: u32 = 10;

/// Decompresses all streams.
pub(super) fn decompress(stored: &[u8], output: &mut BoundedOutput) -> anyhow::Result<()> {
    let mut rest = stored;
    let mut is_first = true;
    while !rest.is_empty() || is_first {
        let [b'B', b'Z', b'h', level @ b'1'..=b'9', ..] = *rest else {
            bail!(if is_first { output.damaged() } else { output.trailing(rest) })
        };
        let mut bits = Bits { rest: &rest[4..], buffer: 0, count: 0 };
        stream(&mut bits, usize::from(level - b'0') * 100_000, output)?;
        rest = bits.rest_bytes(rest);
        is_first = false;
    }
    Ok(())
}

/// Decompresses one stream, whose blocks hold `block_bytes` bytes at most.
fn stream(bits: &mut Bits<'_>, block_bytes: usize, output: &mut BoundedOutput) -> anyhow::Result<()> {
    let mut combined = 0_u32;
    let mut block = Vec::new();
    loop {
        let magic = bits.take_long(48).with_context(|| output.damaged())?;
        let crc = bits.take(32).with_context(|| output.damaged())?;
        match magic {
            END_MAGIC if crc == combined => return Ok(()),
            BLOCK_MAGIC => {}
            _ => bail!(output.damaged()),
        }
        if bits.take(1) == Some(1) {
            bail!("its bzip2 data have randomised blocks, which no program has written since 1998; compress it again");
        }
        let first = read_block(bits, block_bytes, &mut block).with_context(|| output.damaged())?;
        if write_block(&block, first, output)? != crc {
            bail!("{}: the checksum of a block is another than {crc:#010x}", output.damaged());
        }
        combined = combined.rotate_left(1) ^ crc;
    }
}

/// Reads the coded bytes of a block, and links them: each entry holds a byte, and above its eight bits the index of the
/// entry of the next byte. Returns the index of the entry before the first.
fn read_block(bits: &mut Bits<'_>, block_bytes: usize, block: &mut Vec<u32>) -> Option<usize> {
    let origin = bits.take(24)? as usize;
    let mut recent = used_bytes(bits)?;
    // Two symbols for runs, one for each byte but the most recent one, and one that ends the block.
    let symbols = recent.len() + 2;
    let end_of_block = symbols - 1;

    let tables = bits.take(3)? as usize;
    let selectors = bits.take(15)? as usize;
    if !(2..=6).contains(&tables) || selectors == 0 || recent.is_empty() {
        return None;
    }
    let mut recent_tables: Vec<u8> = (0..tables as u8).collect();
    let mut selected = Vec::with_capacity(selectors);
    for _ in 0..selectors {
        let mut index = 0;
        while bits.take(1)? == 1 {
            index += 1;
        }
        selected.push(usize::from(move_to_front(&mut recent_tables, index)?));
    }
    let tables: Vec<Codes> = (0..tables).map(|_| Codes::read(bits, symbols)).collect::<Option<_>>()?;

    block.clear();
    let mut counts = [0_usize; 256];
    let (mut run, mut run_unit) = (0_usize, 1_usize);
    let mut selected = selected.into_iter();
    'block: loop {
        let codes = tables.get(selected.next()?)?;
        for _ in 0..GROUP_SYMBOLS {
            let symbol = codes.symbol(bits)?;
            if symbol <= 1 {
                // A run's length is written in digits of 1 and 2, the lowest first.
                run = run.checked_add(run_unit << symbol)?;
                run_unit <<= 1;
                if run > block_bytes {
                    return None;
                }
                continue;
            }
            if run > 0 {
                let byte = *recent.first()?;
                if block.len() + run > block_bytes {
                    return None;
                }
                block.resize(block.len() + run, byte.into());
                counts[usize::from(byte)] += run;
                (run, run_unit) = (0, 1);
            }
            if symbol == end_of_block {
                break 'block;
            }
            let byte = move_to_front(&mut recent, symbol - 1)?;
            if block.len() == block_bytes {
                return None;
            }
            block.push(byte.into());
            counts[usize::from(byte)] += 1;
        }
    }

    let mut starts = [0_usize; 256];
    let mut start = 0;
    for (place, count) in starts.iter_mut().zip(counts) {
        *place = start;
        start += count;
    }
    for index in 0..block.len() {
        let place = &mut starts[usize::from(block[index] as u8)];
        block[*place] |= (index as u32) << 8;
        *place += 1;
    }
    block.get(origin).map(|entry| (entry >> 8) as usize)
}

/// Writes the bytes of a block, in which the fifth of equal bytes counts further ones, and returns their checksum.
fn write_block(block: &[u32], first: usize, output: &mut BoundedOutput) -> anyhow::Result<u32> {
    const BUFFERED: usize = 32 << 10;
    let mut crc = !0_u32;
    let mut buffer = Vec::with_capacity(BUFFERED + 256);
    let (mut next, mut equal, mut last) = (first, 0, None);
    for _ in 0..block.len() {
        // `read_block` made every index one of the block.
        let entry = block[next];
        next = (entry >> 8) as usize;
        let byte = entry as u8;
        if equal == 4 {
            buffer.resize(buffer.len() + usize::from(byte), last.unwrap_or_default());
            (equal, last) = (0, None);
        } else {
            equal = if last == Some(byte) { equal + 1 } else { 1 };
            last = Some(byte);
            buffer.push(byte);
        }
        if buffer.len() >= BUFFERED {
            crc = extend_crc(crc, &buffer);
            output.write_all(&buffer)?;
            buffer.clear();
        }
    }
    crc = extend_crc(crc, &buffer);
    output.write_all(&buffer)?;
    Ok(!crc)
}

/// The bytes that occur in a block.
fn used_bytes(bits: &mut Bits<'_>) -> Option<Vec<u8>> {
    let ranges = bits.take(16)?;
    let mut used = Vec::new();
    for range in (0..16_u8).filter(|range| ranges >> (15 - range) & 1 == 1) {
        let bytes = bits.take(16)?;
        used.extend((0..16_u8).filter(|byte| bytes >> (15 - byte) & 1 == 1).map(|byte| range * 16 + byte));
    }
    Some(used)
}

/// Moves an item to the front, and returns it.
fn move_to_front(items: &mut [u8], index: usize) -> Option<u8> {
    let before = items.get_mut(..=index)?;
    before.rotate_right(1);
    before.first().copied()
}

/// One table of canonical Huffman codes.
struct Codes {
    /// For each length in bits, the codes of that length: their number, and the first.
    lengths: [(u32, u32); MAX_CODE_BITS as usize + 1],
    /// The symbols in the order of their codes.
    symbols: Vec<u16>,
    /// For each value of the next [`SHORT_CODE_BITS`] bits, the symbol whose code they begin with, and its length; 0 if
    /// the code is longer. Most symbols have a short code, and are found in one step.
    short: Vec<(u16, u8)>,
}

impl Codes {
    fn read(bits: &mut Bits<'_>, count: usize) -> Option<Self> {
        let mut length = bits.take(5)? as u8;
        let mut of_symbol = Vec::with_capacity(count);
        for _ in 0..count {
            loop {
                if !(1..=MAX_CODE_BITS).contains(&length) {
                    return None;
                }
                if bits.take(1)? == 0 {
                    break;
                }
                length = if bits.take(1)? == 0 { length + 1 } else { length - 1 };
            }
            of_symbol.push(length);
        }

        let mut lengths = [(0, 0); MAX_CODE_BITS as usize + 1];
        let mut symbols = Vec::with_capacity(count);
        let mut short = vec![(0, 0); 1 << SHORT_CODE_BITS];
        let mut code = 0_u32;
        for length in 1..=MAX_CODE_BITS {
            let of_length = (0..count).filter(|symbol| of_symbol[*symbol] == length);
            let before = symbols.len();
            symbols.extend(of_length.map(|symbol| symbol as u16));
            let number = (symbols.len() - before) as u32;
            lengths[usize::from(length)] = (number, code);
            if let Some(free) = SHORT_CODE_BITS.checked_sub(length.into()) {
                for (code, symbol) in (code as usize..).zip(&symbols[before..]) {
                    // Damaged tables may have more codes than fit.
                    let Some(places) = short.get_mut(code << free..(code + 1) << free) else { break };
                    places.fill((*symbol, length));
                }
            }
            code = (code + number) << 1;
        }
        Some(Self { lengths, symbols, short })
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> Option<usize> {
        if let Some(next) = bits.peek(SHORT_CODE_BITS)
            && let (symbol, length @ 1..) = self.short[next as usize]
        {
            bits.count -= u32::from(length);
            return Some(symbol.into());
        }
        let (mut code, mut before) = (0_u32, 0);
        for (number, first) in &self.lengths[1..] {
            code = code << 1 | bits.take(1)?;
            if let Some(index) = code.checked_sub(*first).filter(|index| index < number) {
                return self.symbols.get((before + index) as usize).copied().map(usize::from);
            }
            before += number;
        }
        None
    }
}

/// Bits of a file, the highest of each byte first.
struct Bits<'a> {
    rest: &'a [u8],
    buffer: u64,
    /// Bits in the buffer.
    count: u32,
}

impl<'a> Bits<'a> {
    /// The next bits, at most 32, which stay; `None` at the end of the file.
    fn peek(&mut self, bits: u32) -> Option<u32> {
        while self.count < bits {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            self.buffer = self.buffer << 8 | u64::from(*byte);
            self.count += 8;
        }
        Some((self.buffer >> (self.count - bits) & ((1 << bits) - 1)) as u32)
    }

    /// The next bits, at most 32; `None` at the end of the file.
    fn take(&mut self, bits: u32) -> Option<u32> {
        let next = self.peek(bits)?;
        self.count -= bits;
        Some(next)
    }

    fn take_long(&mut self, bits: u32) -> Option<u64> {
        let high = self.take(bits - 24)?;
        Some(u64::from(high) << 24 | u64::from(self.take(24)?))
    }

    /// The bytes behind those that were begun, of the `file` that is read.
    fn rest_bytes(&self, file: &'a [u8]) -> &'a [u8] {
        let unread = self.rest.len() + (self.count / 8) as usize;
        &file[file.len() - unread..]
    }
}

/// The checksum of bzip2: a CRC of 32 bits, the highest bit of each byte first.
fn extend_crc(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| crc << 8 ^ CRC_TABLE[usize::from((crc >> 24) as u8 ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};
