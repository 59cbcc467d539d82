"""Test stand-in for `bootc install`, for machines and distributions without bootc.

It is test equipment: a target that it makes is good enough to be booted in a test, and what it does
with bound images and their store follows bootc 1.16 call by call, in bootc's order. It needs only the
standard library, ostree, podman, skopeo and util-linux, so that it also runs in a guest.

Environment:

- ``STANDIN_CONTAINER_ROOT``: the directory that plays ``/`` of the container that bootc runs in
  (default ``/``). Bound images are read from it, with ``--source-imgref`` too, as bootc does. Its
  ``run/.containerenv`` names the image that is installed; without one the directory itself is.
- ``STANDIN_VERSION``: behave like that version (default 1.16.9). Below 1.1.3 there is the hidden flag
  ``--skip-bound-images`` instead of ``--bound-images``, below 0.1.14 neither and no bound image is
  copied; the store is labelled from 1.1.7, podman gets ``REGISTRY_AUTH_FILE`` there from 1.12.0, and
  ``BOOTC_EXP_EXTERNAL_CONTAINER_TOOL`` counts from 1.16.0. How an image is pushed is the same in all.
- ``STANDIN_FAIL_AT``: fail before a step, to see what callers do: ``resolve``, ``store``, ``deploy``,
  ``bootloader``, ``bound-images`` or ``finalize``.
- ``STANDIN_PAUSE_AT=STEP:FILE``: make that file before the step, and wait until it is gone.
- ``STANDIN_SEPARATE_BOOT``: give an unencrypted disk a boot partition too, as bootc does with LUKS.
- ``STANDIN_TMP``: a directory to mount a tmpfs on, as bootc does on ``/tmp``.
- ``STANDIN_LUKS_PASSPHRASE``: put the root on LUKS2 with this passphrase. bootc itself has only the
  TPM for that.

Where it differs from bootc:

- There is a tmpfs on ``/run/bootc``, which is what the container gives bootc.
- A run that fails unmounts what it has mounted; bootc leaves that to the end of its mount namespace.
- The image's layers are unpacked by tar and committed with ``ostree commit``; bootc imports layer by
  layer, keeps a ref for each, and checks free space first. Extended attributes are not kept.
- No boot loader is installed: the boot loader entries and kernels are there, the ESP is formatted
  and empty. ``/usr/lib/bootc/kargs.d`` and ``/usr/lib/bootc/install`` are not read.
- Nothing outside the store is labelled for SELinux; the store is, when the container's root has a
  policy. ``.bootc_labeled`` is written even without a policy, because that is what callers meet on
  every distribution that ships bootc.
- composefs: the tree lies unpacked in ``composefs/standin`` instead of a composefs repository.
- ``--block-setup=tpm2-luks`` is refused.
- Options about SSH keys, boot loaders, signatures, fetching and clean-up are taken without effect.
"""
