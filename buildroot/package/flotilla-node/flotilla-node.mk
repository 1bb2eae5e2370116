################################################################################
#
# flotilla-node
#
################################################################################

FLOTILLA_NODE_VERSION = 22.22.0
FLOTILLA_NODE_SITE = https://nodejs.org/dist/v$(FLOTILLA_NODE_VERSION)
FLOTILLA_NODE_SOURCE = node-v$(FLOTILLA_NODE_VERSION)-linux-$(FLOTILLA_NODE_ARCH).tar.xz
FLOTILLA_NODE_LICENSE = MIT (core), BSD-family and others (dependencies)
FLOTILLA_NODE_LICENSE_FILES = LICENSE
FLOTILLA_NODE_CPE_ID_VENDOR = nodejs
FLOTILLA_NODE_CPE_ID_PRODUCT = node.js

ifeq ($(BR2_aarch64),y)
FLOTILLA_NODE_ARCH = arm64
else ifeq ($(BR2_arm),y)
FLOTILLA_NODE_ARCH = armv7l
else
FLOTILLA_NODE_ARCH = x64
endif

define FLOTILLA_NODE_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/bin/node $(TARGET_DIR)/usr/bin/node
endef

$(eval $(generic-package))
