"""The puppet: a miniature LTX-2.3 that talks, trained by `training/` on drawn faces (docs/puppet.md)."""
