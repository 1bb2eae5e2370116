{ pkgs, ... }:
{
  imports = [ <nixpkgs/nixos/modules/virtualisation/docker-image.nix> ];
  # Network and devices are the host's.
  networking.useDHCP = false;
  networking.firewall.enable = false;
  documentation.enable = false;
  environment.systemPackages = with pkgs; [ git nano openssh rsync ];
  users.users.core = {
    isNormalUser = true;
    extraGroups = [ "wheel" ];
  };
  security.sudo.wheelNeedsPassword = false;
  system.stateVersion = "24.11";
}
