//! Commands, responses and TLV: what parses is written back as the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_apdu::{CApdu, RApdu, Writer, tlv::TlvReader};

fuzz_target!(|data: &[u8]| {
    if let Ok(capdu) = CApdu::parse(data) {
        let mut buf = vec![0; data.len() + 8];
        let mut out = Writer::new(&mut buf);
        capdu.encode(&mut out).unwrap();
        let again = CApdu::parse(out.written()).unwrap();
        assert_eq!((again.cla, again.ins, again.data, again.ne), (capdu.cla, capdu.ins, capdu.data, capdu.ne));
    }
    let _ = RApdu::parse(data);
    for tlv in TlvReader::new(data) {
        if tlv.is_err() {
            break;
        }
    }
});
