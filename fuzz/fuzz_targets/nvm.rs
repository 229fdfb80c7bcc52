//! Any flash content: the store opens or says why not; what opens goes on working.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sekisho_nvm::ram::RamFlash;
use sekisho_nvm::{Error, Key, Op, Ram};

/// Fewer records than the input can have.
type Store = sekisho_nvm::Store<Ram<3, 16, 16>>;

fuzz_target!(|data: &[u8]| {
    let mut flash = RamFlash::new(256, 4);
    Store::format(&mut flash, 0..4).unwrap();
    let mut image = flash.image();
    // The head stays, or hardly any input would get past it.
    for (to, from) in image[28..].iter_mut().zip(data) {
        *to = *from;
    }
    let mut flash = RamFlash::from_image(256, &image);
    if let Ok(mut store) = Store::open(&mut flash, 0..4) {
        let mut buf = [0; 600];
        let mut key = None;
        while let Ok(Some(next)) = store.next_key(&flash, key) {
            let _ = store.get(&flash, next, &mut buf);
            key = Some(next);
        }
        match store.commit(&mut flash, &[Op::Put(Key::new(1, 1, 1), b"value")]) {
            Ok(()) => assert_eq!(store.get(&flash, Key::new(1, 1, 1), &mut buf).unwrap(), Some(5)),
            Err(error) => assert!(matches!(error, Error::Full | Error::Corrupted), "{error:?}"),
        }
    }
});
