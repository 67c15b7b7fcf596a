//! One msgpack object to exactly the end of the file, as Flax writes it.

use super::numpy::exact;
use crate::evidence::Evidence;
use crate::report::Findings;
use crate::window::{Check, Flaw, Window};

/// What is left to read of each open map or array.
const MAX_DEPTH: usize = 256;

pub(super) fn probe(window: Window<'_>, out: &mut Findings) -> Check<()> {
    let mut cursor = window.cursor(0);
    let mut open: Vec<u64> = vec![1];
    let mut objects = 0_u64;
    while let Some(left) = open.last_mut() {
        let Some(rest) = left.checked_sub(1) else {
            open.pop();
            continue;
        };
        *left = rest;
        objects += 1;
        if objects > window.limits().objects as u64 {
            return Err(Flaw::unsure(Evidence::LimitReached { limit: objects }));
        }
        let tag = cursor.u8()?;
        let (skip, children) = match tag {
            0x80..=0x8f => (0, u64::from(tag & 0x0f) * 2),
            0x90..=0x9f => (0, u64::from(tag & 0x0f)),
            0xa0..=0xbf => (u64::from(tag & 0x1f), 0),
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
            0xc4 | 0xd9 => (u64::from(cursor.u8()?), 0),
            0xc5 | 0xda => (u64::from(u16::from_be_bytes(cursor.array()?)), 0),
            0xc6 | 0xdb => (u64::from(u32::from_be_bytes(cursor.array()?)), 0),
            0xc7 => (u64::from(cursor.u8()?) + 1, 0),
            0xc8 => (u64::from(u16::from_be_bytes(cursor.array()?)) + 1, 0),
            0xc9 => (u64::from(u32::from_be_bytes(cursor.array()?)) + 1, 0),
            0xca | 0xce | 0xd2 => (4, 0),
            0xcb | 0xcf | 0xd3 => (8, 0),
            0xcc | 0xd0 => (1, 0),
            0xcd | 0xd1 => (2, 0),
            0xd4..=0xd8 => ((1 << (tag - 0xd4)) + 1, 0),
            0xdc => (0, u64::from(u16::from_be_bytes(cursor.array()?))),
            0xdd => (0, u64::from(u32::from_be_bytes(cursor.array()?))),
            0xde => (0, u64::from(u16::from_be_bytes(cursor.array()?)) * 2),
            0xdf => (0, u64::from(u32::from_be_bytes(cursor.array()?)) * 2),
            0xc1 => return Err(Flaw::broken(format!("msgpack byte 0xc1 at {}", cursor.at()))),
        };
        cursor.skip(skip)?;
        if children > 0 {
            if open.len() >= MAX_DEPTH {
                return Err(Flaw::broken("msgpack nested too deeply"));
            }
            open.push(children);
        }
    }
    exact(window.size(), cursor.at(), objects, out)
}
