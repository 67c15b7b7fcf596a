//! Plain pickles: pickle, joblib, scikit-learn.

use crate::evidence::Evidence;
use crate::pickle;
use crate::report::Findings;
use crate::window::{Check, Flaw, Window};

pub(super) fn probe(window: Window<'_>, out: &mut Findings) -> Check<()> {
    probe_at(window, 0, out)
}

/// Follows a pickle from an offset to the end of the file.
pub(super) fn probe_at(window: Window<'_>, start: u64, out: &mut Findings) -> Check<()> {
    let mut cursor = window.cursor(start);
    match pickle::walk(&mut cursor, window.limits()) {
        Ok(walk) => {
            if cursor.left() > 0 {
                return Err(Flaw::torn(Evidence::TrailingBytes {
                    size: window.size(),
                    expected: cursor.at(),
                }));
            }
            out.expected = Some(window.size());
            out.note(Evidence::PickleEnds { objects: walk.heap.len() as u64 });
            super::torch_facts::collect(&walk, &|_, _| None, out);
            Ok(())
        }
        Err(Flaw { evidence: Evidence::LimitReached { .. }, .. }) if start == 0 => {
            let frames = pickle::follow_frames(&mut window.cursor(0))?;
            out.note(Evidence::PickleFrames { frames });
            // The last byte of a pickle is its STOP; a file that is cut between frames lacks it.
            match window.read(window.size().saturating_sub(1), 1)?.first() {
                Some(b'.') if frames > 0 => Ok(()),
                _ => Err(Flaw::broken("the last pickle frame does not end the pickle")),
            }
        }
        Err(flaw) => Err(flaw),
    }
}
