################################################################################
#
# flotilla-container
#
################################################################################

FLOTILLA_CONTAINER_VERSION = 1
# What reads the boot record and mounts the root is the same as in the initramfs.
FLOTILLA_CONTAINER_SITE = $(BR2_EXTERNAL_FLOTILLA_PATH)/package/flotilla-init
FLOTILLA_CONTAINER_SITE_METHOD = local
FLOTILLA_CONTAINER_LICENSE = MIT
FLOTILLA_CONTAINER_REDISTRIBUTE = NO
FLOTILLA_CONTAINER_INSTALL_TARGET = NO
FLOTILLA_CONTAINER_INSTALL_IMAGES = YES

# Static: the container's own image may be empty but for it.
define FLOTILLA_CONTAINER_BUILD_CMDS
	$(TARGET_CC) $(TARGET_CFLAGS) $(TARGET_LDFLAGS) -Wall -static -s \
		-o $(@D)/flotilla-container $(filter-out %/init.c,$(wildcard $(@D)/*.c))
endef

define FLOTILLA_CONTAINER_INSTALL_IMAGES_CMDS
	$(INSTALL) -D -m 0755 $(@D)/flotilla-container $(BINARIES_DIR)/flotilla-container
endef

$(eval $(generic-package))
