//! Devices that are done with orders which the database has not given: it is older than its fleet. The orders are lifted above them before any more are
//! given, and whoever runs the server is told.

use std::sync::{Mutex, PoisonError};

use sekisho_store::Result as StoreResult;
use sekisho_store::paging::{Followed, Jump};

use super::{Paging, READING, Result, heard};

/// The jumps since the start: how many, and the last.
#[derive(Debug, Default)]
pub(super) struct Jumped(Mutex<(u64, Option<Jump>)>);

impl Jumped {
    fn count(&self, jump: Jump) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = (held.0 + 1, Some(jump));
    }

    fn held(&self) -> (u64, Option<Jump>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said of the orders.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The last that has been given.
    pub last: u32,
    /// The last jumps, the newest first.
    pub jumps: Vec<Jump>,
    /// Devices that are ahead of all that has been given, and are not followed.
    pub ahead: usize,
}

impl Paging {
    /// Before an order is given: the sequence is above all that has been heard.
    pub(super) async fn catch_up(&self) -> Result<()> {
        if self.engine.ahead().is_empty() {
            return Ok(());
        }
        self.look(0).await
    }

    /// Follows the devices that are ahead; gives whether there was a jump.
    pub(super) async fn follow(&self) -> Result<bool> {
        let mut devices = self.engine.ahead();
        devices.sort_unstable_by_key(|device| std::cmp::Reverse(device.order));
        let (mut upto, mut jumped) = (0, false);
        for device in devices.iter().filter(|device| !device.refused) {
            if device.order <= upto {
                continue;
            }
            let follow = self.store.follow(device.index, device.order, crate::app::now());
            let se_id = || {
                let known = self.engine.device(device.index);
                known.map(|known| hex::encode(known.se_id)).unwrap_or_default()
            };
            match heard(READING, follow).await? {
                Followed::Given => {}
                Followed::Jumped(jump) => {
                    tracing::warn!(
                        se_id = se_id(),
                        order = jump.said,
                        last = jump.past,
                        next = jump.upto,
                        "paging: the database is older than its fleet: a device is done with an order that it has not given; \
                         orders go on above, messages that wait are given anew"
                    );
                    self.jumped.count(jump);
                    upto = jump.upto;
                    jumped = true;
                }
                Followed::Refused => {
                    tracing::error!(
                        se_id = se_id(),
                        order = device.order,
                        "paging: a device says that it is done with an order that cannot be, and is not followed: it hears of nothing below"
                    );
                    self.engine.refuse(device.index, true);
                }
            }
        }
        if jumped {
            // The orders are nearer to them now.
            devices
                .iter()
                .filter(|device| device.refused)
                .for_each(|device| self.engine.refuse(device.index, false));
        }
        Ok(jumped)
    }

    /// The orders.
    ///
    /// # Errors
    /// [`StoreError`](sekisho_store::StoreError).
    pub async fn orders(&self) -> StoreResult<Orders> {
        Ok(Orders {
            last: self.store.latest().await?.1,
            jumps: self.store.jumps().await?,
            ahead: self.engine.ahead().len(),
        })
    }

    /// What the live page says of it.
    pub(crate) fn older(&self) -> Option<String> {
        let (_, last) = self.jumped.held();
        last.map(|jump| {
            format!(
                "a device is done with order {}, and {} was the last that had been given; orders go on above {}",
                jump.said, jump.past, jump.upto
            )
        })
    }

    /// Prometheus text of the jumps and of the devices that are not followed.
    pub(crate) fn orders_prometheus(&self) -> String {
        format!(
            "# TYPE sekisho_paging_order_jumps_total counter\nsekisho_paging_order_jumps_total {}\n\
             # TYPE sekisho_paging_devices_ahead gauge\nsekisho_paging_devices_ahead {}\n",
            self.jumped.held().0,
            self.engine.ahead().len()
        )
    }
}
