"""What tests build on: images, stores, disks, registries and the product as a user calls it."""
