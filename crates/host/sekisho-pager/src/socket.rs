//! Datagrams of 44 bytes in batches, for the engine, and for what loads and measures it: `recvmmsg` and `sendmmsg`, through nix, which keeps the pointers.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use sekisho_paging::DATAGRAM;
use socket2::{Domain, Protocol, Socket, Type};

/// Datagrams in a batch. More gains nothing (`docs/decisions/0004-paging.md`).
pub const BATCH: usize = 64;
/// One byte more than a poll: what fills it is too long.
const ROOM: usize = DATAGRAM + 1;

/// Opens a UDP socket that shares its address with the engine's others, with large buffers and a read timeout of a tenth of a second.
///
/// # Errors
/// That of the operating system.
pub fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    // A burst of a wake-up storm; the kernel gives what its limit allows.
    let _ = socket.set_recv_buffer_size(8 << 20);
    let _ = socket.set_send_buffer_size(8 << 20);
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A batch of datagrams with their senders.
pub struct Batch {
    room: Box<[[u8; ROOM]; BATCH]>,
    lengths: [usize; BATCH],
    senders: Vec<Option<SockaddrStorage>>,
    received: MultiHeaders<SockaddrStorage>,
    sent: MultiHeaders<SockaddrStorage>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// Room for a batch.
    pub fn new() -> Self {
        Self {
            room: Box::new([[0; ROOM]; BATCH]),
            lengths: [0; BATCH],
            senders: vec![None; BATCH],
            received: MultiHeaders::preallocate(BATCH, None),
            sent: MultiHeaders::preallocate(BATCH, None),
        }
    }

    /// Takes what is there, and how many; with `wait` it waits for the first, as long as the socket's timeout allows.
    ///
    /// # Errors
    /// That of the socket; none for "nothing there".
    pub fn receive(&mut self, socket: &UdpSocket, wait: bool) -> io::Result<usize> {
        let mut slices = self.room.each_mut().map(|room| [IoSliceMut::new(room)]);
        let flag = if wait {
            MsgFlags::MSG_WAITFORONE
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        let got = recvmmsg(
            socket.as_raw_fd(),
            &mut self.received,
            slices.iter_mut(),
            flag,
            None,
        );
        match got {
            Ok(messages) => {
                let mut count = 0;
                for message in messages {
                    self.lengths[count] = message.bytes;
                    self.senders[count] = message.address;
                    count += 1;
                }
                Ok(count)
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// A datagram of the batch: its first 45 bytes.
    pub fn datagram(&self, number: usize) -> &[u8] {
        &self.room[number][..self.lengths[number].min(ROOM)]
    }

    /// Who sent it.
    pub fn sender(&self, number: usize) -> Option<SockaddrStorage> {
        self.senders[number]
    }

    /// Sends answers to their addresses; gives how many left. One that the kernel does not take is lost, as datagrams are.
    pub fn send(
        &mut self,
        socket: &UdpSocket,
        answers: &[[u8; DATAGRAM]],
        to: &[Option<SockaddrStorage>],
    ) -> usize {
        let mut sent = 0;
        for (answers, to) in answers.chunks(BATCH).zip(to.chunks(BATCH)) {
            let mut done = 0;
            while done < answers.len() {
                let slices: Vec<_> = answers[done..]
                    .iter()
                    .map(|answer| [IoSlice::new(answer)])
                    .collect();
                let result = sendmmsg(
                    socket.as_raw_fd(),
                    &mut self.sent,
                    &slices,
                    &to[done..],
                    [],
                    MsgFlags::empty(),
                );
                match result {
                    Ok(results) => {
                        let count = results.count();
                        sent += count;
                        done += count.max(1);
                    }
                    Err(Errno::EINTR) => {}
                    Err(_) => done += 1,
                }
            }
        }
        sent
    }
}

/// The address of a sender.
pub(crate) fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        _ => None,
    }
}

/// Keeps the calling thread on a core. A core that is not there leaves it where it is.
pub fn pin(core: Option<usize>) {
    let Some(core) = core else { return };
    let mut set = nix::sched::CpuSet::new();
    if set.set(core).is_ok() {
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
    }
}
