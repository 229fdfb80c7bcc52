//! Tickets of servers (`docs/spec/tls-manager.md`, 8): one of a row, in RAM.

use alloc::boxed::Box;

use sekisho_tls::Ticket;

/// Rows that have a ticket at once.
pub const TICKETS_MAX: usize = 4;

/// They go with the power, and with what they were made with.
pub(super) struct Tickets([Option<Kept>; TICKETS_MAX]);

struct Kept {
    row: u16,
    ticket: Box<Ticket>,
}

impl Tickets {
    pub(super) const NEW: Self = Self([const { None }; TICKETS_MAX]);

    /// The ticket of a row, which is good for one session, and not behind the end of the server's certificate.
    pub(super) fn take(&mut self, row: u16, time: u64) -> Option<Box<Ticket>> {
        let place = self.0.iter_mut().find(|kept| is_of(kept.as_ref(), row))?;
        let kept = place.take()?;
        (time <= kept.ticket.until()).then_some(kept.ticket)
    }

    /// Keeps a ticket of a row, in the place of the one before; else where there is none, or in the place of the one that came first.
    pub(super) fn keep(&mut self, row: u16, ticket: Box<Ticket>) {
        self.forget(row);
        // Those before it move up: the first is the oldest.
        let end = self.0.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
        if end == TICKETS_MAX {
            self.0.rotate_left(1);
        }
        if let Some(place) = self.0.get_mut(end.min(TICKETS_MAX - 1)) {
            *place = Some(Kept { row, ticket });
        }
    }

    /// The row is another, or gone.
    pub(super) fn forget(&mut self, row: u16) {
        let at = self.0.iter().position(|kept| is_of(kept.as_ref(), row));
        if let Some(behind) = at.and_then(|at| self.0.get_mut(at..)) {
            behind.rotate_left(1);
            if let Some(last) = behind.last_mut() {
                *last = None;
            }
        }
    }

    /// Key or certificates are others, or gone.
    pub(super) fn clear(&mut self) {
        *self = Self::NEW;
    }
}

fn is_of(kept: Option<&Kept>, row: u16) -> bool {
    kept.is_some_and(|kept| kept.row == row)
}
