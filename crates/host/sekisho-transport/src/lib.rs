//! Byte transports to secure elements: PC/SC, sockets, vpcd.
