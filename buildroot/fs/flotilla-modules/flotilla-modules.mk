################################################################################
#
# flotilla-modules: modules.squashfs, kernel modules as an image of their own
#
################################################################################

ROOTFS_FLOTILLA_MODULES_DEPENDENCIES = host-squashfs
ROOTFS_FLOTILLA_MODULES_IMAGE_NAME = modules.squashfs

# Every file system is made from a copy of target/ of its own, so nothing is
# missing there afterwards.
# With a merged /usr this is /usr/lib/modules.
define ROOTFS_FLOTILLA_MODULES_CMD
	mkdir -p $(TARGET_DIR)/lib/modules
	$(HOST_DIR)/bin/mksquashfs $(TARGET_DIR)/lib/modules $@ \
		-noappend -no-xattrs -all-root -comp zstd -quiet
endef

ifeq ($(BR2_TARGET_ROOTFS_FLOTILLA_MODULES),y)
define FLOTILLA_LEAVE_OUT_MODULES
	rm -rf $(TARGET_DIR)/lib/modules/*
endef
ROOTFS_SQUASHFS_PRE_GEN_HOOKS += FLOTILLA_LEAVE_OUT_MODULES
endif

$(eval $(rootfs))
