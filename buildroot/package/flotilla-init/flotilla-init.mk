################################################################################
#
# flotilla-init
#
################################################################################

FLOTILLA_INIT_VERSION = 1
FLOTILLA_INIT_SITE = $(BR2_EXTERNAL_FLOTILLA_PATH)/package/flotilla-init
FLOTILLA_INIT_SITE_METHOD = local
FLOTILLA_INIT_LICENSE = MIT
FLOTILLA_INIT_REDISTRIBUTE = NO
FLOTILLA_INIT_INSTALL_TARGET = NO
FLOTILLA_INIT_INSTALL_IMAGES = YES

# Static: there is nothing beside it in the initramfs.
define FLOTILLA_INIT_BUILD_CMDS
	$(TARGET_CC) $(TARGET_CFLAGS) $(TARGET_LDFLAGS) -Wall -static -s \
		-o $(@D)/init $(filter-out %/container.c,$(wildcard $(@D)/*.c))
endef

# Times and owners are the same in every build.
define FLOTILLA_INIT_INSTALL_IMAGES_CMDS
	rm -rf $(@D)/root
	$(INSTALL) -D -m 0755 $(@D)/init $(@D)/root/init
	touch -d @0 $(@D)/root/init $(@D)/root
	(cd $(@D)/root && find . | LC_ALL=C sort | \
		cpio --quiet -o -H newc -R 0:0 --reproducible) | \
		gzip -9 -n > $(BINARIES_DIR)/initramfs.cpio.gz
endef

$(eval $(generic-package))
