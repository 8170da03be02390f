#!/bin/sh
# A compiler for `make fuzz`: what is ours is built with the counters that libFuzzer goes by, all else as always. The flags are
# those of cargo-fuzz, which a stable compiler takes as well.
case " $* " in
*" --crate-name scoreline "*)
    exec "$@" -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
        -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
        -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$@" ;;
esac
