use super::*;

/// What the last transaction may have left: its own records' remains, and nobody else's.
#[test]
fn remains_are_of_a_record_that_goes() {
    let (own, object) = (Key::new(0x0105, 0x0030, 2), Key::new(0x0105, 0x0031, 2));
    let (part, other) = (Key::new(0x0105, 0x0030, 3), Key::new(0x0206, 0x0030, 2));
    let second = |key: Key| u32::from(key.owner) << 16 | u32::from(key.object);
    let remove = Op::Remove(own);
    let put = Op::Put(own, &[1]);
    let all = Op::RemoveAll(Prefix::Owner(0x0105));
    let some = Op::RemoveAll(Prefix::Object(0x0105, 0x0030));
    for (name, op, wanted) in [
        // All of its head: as the operation says.
        (Remaining::Key(own), &put, true),
        (Remaining::Key(part), &put, false),
        (Remaining::Key(part), &some, true),
        (Remaining::Key(object), &some, false),
        (Remaining::Key(object), &all, true),
        (Remaining::Key(other), &all, false),
        // Owner and object alone: of whatever part.
        (Remaining::Owned(second(part)), &remove, true),
        (Remaining::Owned(second(object)), &remove, false),
        (Remaining::Owned(second(part)), &some, true),
        (Remaining::Owned(second(object)), &all, true),
        (Remaining::Owned(second(other)), &all, false),
        // Bits of these that are not zeros yet.
        (Remaining::Torn(0x0005_0020), &remove, true),
        (Remaining::Torn(0x0005_0020), &some, true),
        (Remaining::Torn(0x0002_0000), &remove, false),
        (Remaining::Torn(0x0001_0001), &remove, false),
        (Remaining::Torn(0x0001_FFFF), &all, true),
        (Remaining::Torn(0x0002_0000), &all, false),
        // A record of owner 0 and object 0 has no bits there: it may be any word.
        (Remaining::Torn(7), &Op::Remove(Key::new(0, 0, 1)), true),
    ] {
        assert_eq!(name.is_concerned(op), wanted, "{op:?}");
    }
}
