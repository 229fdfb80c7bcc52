#!/bin/sh
# In place of rustc, for images that are the same bit for bit wherever the repository stands. Cargo's name for a crate that is not in the workspace's own folder is made of its path; it
# goes into the name of each function, and with it into the order in which they stand in the image. Of the repository's crates it is made of the package's name and version here.
# `cargo xtask firmware` sets SEKISHO_ROOT.
compiler=$1
shift
case ${CARGO_MANIFEST_DIR:-} in
"$SEKISHO_ROOT"/*)
    count=$#
    while [ "$count" -gt 0 ]; do
        argument=$1
        shift
        case $argument in
        metadata=*) argument=metadata=$CARGO_PKG_NAME-$CARGO_PKG_VERSION ;;
        esac
        set -- "$@" "$argument"
        count=$((count - 1))
    done
    ;;
esac
exec "$compiler" "$@"
